"""Spillway / Data plane: whoever is on call goes from symptom to cause, row by row."""

from __future__ import annotations

from dashboards.panels import SIDECAR, Board, Panel


def _by_pod(metric: str) -> str:
    return f"sum by (namespace, pod) ({metric}{{{SIDECAR}}})"


def _rate_by_pod(metric: str) -> str:
    return f"sum by (namespace, pod) (rate({metric}{{{SIDECAR}}}[$__rate_interval]))"


_POD = "{{namespace}}/{{pod}}"

_SYMPTOMS = (
    Panel(
        "Share of looked-up tokens served, by pod",
        "A pod below its neighbours is cold or has a fault; see the rows below.",
        "percentunit",
        {_POD: f"{_rate_by_pod('spillway_loaded_tokens_total')} / {_rate_by_pod('spillway_looked_up_tokens_total')}"},
        alert="SpillwayHitRatioCollapsed",
    ),
    Panel(
        "Keys looked up, by answer",
        "hit: in DRAM; nvme: on NVMe, to be promoted; miss: nowhere.",
        "cps",
        {"{{result}}": f"sum by (result) (rate(spillway_lookup_keys_total{{{SIDECAR}}}[$__rate_interval]))"},
        kind="stacked",
    ),
    Panel(
        "Loads that failed, engines that went on without",
        "Both cost hits and nothing else.",
        "cps",
        {
            "failed loads " + _POD: _rate_by_pod("spillway_load_failures_total"),
            "fail open " + _POD: _rate_by_pod("spillway_fail_open_total"),
        },
        alert="SpillwayLoadsFail",
    ),
    Panel(
        "Oldest load",
        "Age of the oldest load that not every rank has acknowledged. A minute is a stuck copy.",
        "s",
        {_POD: f"max by (namespace, pod) (spillway_oldest_ticket_age_seconds{{{SIDECAR}}})"},
        thresholds={10: "yellow", 60: "red"},
        alert="SpillwayTicketTooOld",
    ),
    Panel(
        "Engines",
        "Engines attached per pod; 0 for an hour means that nobody uses the sidecar.",
        "short",
        {_POD: _by_pod("spillway_engines")},
        alert="SpillwayEngineNeverAttached",
    ),
    Panel(
        "Daemon restarts",
        "Daemons that ended in the sidecar before this one, by cause; stalled: it stood still and was killed.",
        "short",
        {"{{cause}} " + _POD: f"max by (cause, namespace, pod) (spillway_daemon_restarts{{{SIDECAR}}})"},
        alert="SpillwayDaemonRestarts",
    ),
)

_DRAM = (
    Panel(
        "Chunks moved",
        "Chunks that engines stored and loaded.",
        "cps",
        {"{{direction}}": f"sum by (direction) (rate(spillway_moved_chunks_total{{{SIDECAR}}}[$__rate_interval]))"},
    ),
    Panel(
        "Chunks held",
        "Chunks that each tier holds; one may lie in both.",
        "short",
        {"{{tier}}": f"sum by (tier) (spillway_tier_chunks{{{SIDECAR}}})"},
    ),
    Panel(
        "Evicted before written",
        "Share of the chunks leaving DRAM that NVMe did not have yet; nothing without evictions.",
        "percentunit",
        {
            _POD: f"{_rate_by_pod('spillway_unwritten_evictions_total')}"
            f' / (sum by (namespace, pod) (rate(spillway_evicted_chunks_total{{{SIDECAR},tier="dram"}}[$__rate_interval])) > 0)'
            f" or {_rate_by_pod('spillway_unwritten_evictions_total')}"
        },
        thresholds={0.1: "red"},
        alert="SpillwayDramEvictsUnwritten",
    ),
    Panel(
        "Slots in use by engines and loads",
        "Leased to engines that store, pinned by loads, held back after a daemon's death, read into, evicted; and all that are not free.",
        "short",
        {
            "leased": f"sum(spillway_leases{{{SIDECAR}}})",
            "pinned": f"sum(spillway_pinned_slots{{{SIDECAR}}})",
            "held back": f"sum(spillway_quarantined_slots{{{SIDECAR}}})",
            "read into": f"sum(spillway_reading_slots{{{SIDECAR}}})",
            "recycling": f"sum(spillway_recycling_slots{{{SIDECAR}}})",
            "not free": f"sum(spillway_taken_slots{{{SIDECAR}}})",
        },
    ),
    Panel(
        "Stores declined",
        "Chunks that engines offered and got no slot for: none in seconds, or their request ended before. They are computed again.",
        "cps",
        {"{{reason}}": f"sum by (reason) (rate(spillway_declined_stores_total{{{SIDECAR}}}[$__rate_interval]))"},
    ),
    Panel(
        "Arena in memory",
        "Arena bytes that are backed by memory, per pod.",
        "bytes",
        {_POD: _by_pod("spillway_faulted_bytes")},
    ),
    Panel(
        "Index under pressure",
        "Chunks not kept, or displaced by newer ones, because the index was full where they belong.",
        "cps",
        {
            "not kept": f"sum(rate(spillway_index_full_total{{{SIDECAR}}}[$__rate_interval]))",
            "displaced": f"sum(rate(spillway_index_displaced_total{{{SIDECAR}}}[$__rate_interval]))",
        },
    ),
)

_NVME = (
    Panel(
        "NVMe tier",
        "State per pod. An open breaker: the device failed or hung, the sidecar goes on probing it.",
        "none",
        {_POD: f"max by (namespace, pod) (spillway_nvme_state{{{SIDECAR}}})"},
        kind="states",
        width=12,
        states={0: ("off", "text"), 1: ("scans", "blue"), 2: ("serves", "green"), 3: ("breaker open", "red")},
        alert="SpillwayDiskBreakerOpen",
    ),
    Panel(
        "Direct I/O",
        "1 where O_DIRECT was proved at open. Without it the page cache takes memory, and figures of the device are not the device's.",
        "none",
        {_POD: f"min by (namespace, pod) (spillway_direct_io{{{SIDECAR}}})"},
        kind="states",
        width=12,
        states={0: ("buffered", "yellow"), 1: ("direct", "green")},
    ),
    Panel(
        "Way of I/O",
        "Sidecars by the rung of the ladder that they read and write by; /status of a sidecar says why no better one.",
        "short",
        {"{{rung}}": f"sum by (rung) (spillway_nvme_rung{{{SIDECAR}}})"},
    ),
    Panel(
        "Read and written",
        "Payload between DRAM and NVMe, per pod.",
        "Bps",
        {
            "{{hop}} " + _POD: "sum by (hop, namespace, pod) (rate("
            f'spillway_hop_bytes_total{{{SIDECAR},hop=~"arena_to_nvme|nvme_to_arena"}}[$__rate_interval]))'
        },
    ),
    Panel(
        "Late and failed I/O",
        "Reads and writes that took longer than the pool's deadline, or failed; openings of the breaker.",
        "cps",
        {
            "late " + _POD: _rate_by_pod("spillway_late_ios_total"),
            "failed " + _POD: _rate_by_pod("spillway_io_errors_total"),
            "breaker opened " + _POD: _rate_by_pod("spillway_breaker_openings_total"),
        },
        alert="SpillwayStorageSlow",
    ),
    Panel(
        "Promotions",
        "Chunks that engines wait for from NVMe, and those declined because they wait for too many.",
        "short",
        {
            "waiting": f"sum(spillway_promotions_waiting{{{SIDECAR}}})",
            "declined per second": f"sum(rate(spillway_promotions_declined_total{{{SIDECAR}}}[$__rate_interval]))",
        },
    ),
)

_FAULTS = (
    Panel(
        "Quarantined, by pod and reason",
        "Several pods of one node point to its device.",
        "cps",
        {
            "{{reason}} " + _POD: "sum by (reason, namespace, pod)"
            f" (rate(spillway_quarantined_chunks_total{{{SIDECAR}}}[$__rate_interval]))"
        },
        width=12,
        alert="SpillwayChunksQuarantined",
    ),
    Panel(
        "Engines that stood still or misbehaved",
        "Steps that stood still, operations refused, and faults of the core contained to one engine.",
        "cps",
        {
            "steps expelled " + _POD: _rate_by_pod("spillway_steps_expelled_total"),
            "operations refused " + _POD: _rate_by_pod("spillway_invalid_operations_total"),
            "faults contained " + _POD: _rate_by_pod("spillway_panics_contained_total"),
        },
        width=12,
        alert="SpillwayEngineFailsOpen",
    ),
)

BOARD = Board(
    "spillway-data-plane",
    "Spillway / Data plane",
    "From symptom to cause: what engines feel, then DRAM, then NVMe, then faults.",
    by_pool=True,
    rows={"What engines feel": _SYMPTOMS, "DRAM": _DRAM, "NVMe": _NVME, "Faults": _FAULTS},
)
