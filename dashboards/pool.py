"""Spillway / Pool: what a pool is worth, in three rows: technical, economic, security."""

from __future__ import annotations

from dashboards.panels import SIDECAR, Board, Panel

_LOADED = f"spillway_loaded_tokens_total{{{SIDECAR}}}"
_LOOKED_UP = f"spillway_looked_up_tokens_total{{{SIDECAR}}}"
_WRITTEN = f'spillway_hop_bytes_total{{{SIDECAR},hop="arena_to_nvme"}}'
_READ = f'spillway_hop_bytes_total{{{SIDECAR},hop="nvme_to_arena"}}'

_TECHNICAL = (
    Panel(
        "Tokens served",
        "Share of the prompt tokens that engines looked up beyond what they had on the device and got from Spillway, over the time shown.",
        "percentunit",
        {"served": f"sum(increase({_LOADED}[$__range])) / sum(increase({_LOOKED_UP}[$__range]))"},
        kind="stat",
        width=6,
        thresholds={0.1: "yellow", 0.3: "green"},
        low_is_bad=True,
        alert="SpillwayHitRatioCollapsed",
    ),
    Panel(
        "Engines attached",
        "Engines that are attached to a sidecar and alive.",
        "short",
        {"engines": f"sum(spillway_engines{{{SIDECAR}}})"},
        kind="stat",
        width=6,
        alert="SpillwayEngineNeverAttached",
    ),
    Panel(
        "Held in DRAM",
        "Payload in the DRAM tiers of all pods.",
        "bytes",
        {"dram": f'sum(spillway_tier_used_bytes{{{SIDECAR},tier="dram"}})'},
        kind="stat",
        width=6,
    ),
    Panel(
        "Held on NVMe",
        "Payload in the NVMe tiers of all pods.",
        "bytes",
        {"nvme": f'sum(spillway_tier_used_bytes{{{SIDECAR},tier="nvme"}})'},
        kind="stat",
        width=6,
    ),
    Panel(
        "Prompt tokens by source",
        "Where the tokens that engines looked up came from; computed: by the engine. Their sum is what was looked up.",
        "short",
        {
            "{{tier}}": f"sum by (tier) (rate({_LOADED}[$__rate_interval]))",
            "computed": f"sum(rate({_LOOKED_UP}[$__rate_interval])) - sum(rate({_LOADED}[$__rate_interval]))",
        },
        kind="stacked",
        width=12,
        alert="SpillwayHitRatioCollapsed",
    ),
    Panel(
        "Share served, by pool",
        "As recorded by the chart's rules over 30 minutes; what the alert compares with the day before.",
        "percentunit",
        {"{{namespace}}/{{pool}}": f"namespace_pool:spillway_hit_tokens:ratio_rate30m{{{SIDECAR}}}"},
        width=12,
        alert="SpillwayHitRatioCollapsed",
    ),
    Panel(
        "Payload by hop",
        "Bytes per second between engine, arena (DRAM) and NVMe.",
        "Bps",
        {"{{hop}}": f"sum by (hop) (namespace_pool_hop:spillway_hop_bytes:rate5m{{{SIDECAR}}})"},
        width=12,
    ),
    Panel(
        "Fill of the tiers",
        "Payload by what a tier may hold. Full is healthy: a cache that is full evicts what is oldest.",
        "percentunit",
        {
            "{{tier}}": f"sum by (tier) (spillway_tier_used_bytes{{{SIDECAR}}})"
            f" / (sum by (tier) (spillway_tier_capacity_bytes{{{SIDECAR}}}) > 0)"
        },
        width=12,
    ),
)

_ECONOMIC = (
    Panel(
        "Prompt tokens not computed again",
        "Tokens that loads brought over the time shown: what engines did not have to compute.",
        "short",
        {"tokens": f"sum(increase({_LOADED}[$__range]))"},
        kind="stat",
        width=6,
    ),
    Panel(
        "Written to NVMe",
        "Payload written over the time shown; it wears flash.",
        "bytes",
        {"written": f"sum(increase({_WRITTEN}[$__range]))"},
        kind="stat",
        width=6,
        alert="SpillwayTierWrittenNeverRead",
    ),
    Panel(
        "Read back per byte written",
        "Below 0.01 for hours the tier is worn for nothing.",
        "percentunit",
        {"read back": f"sum(increase({_READ}[$__range])) / sum(increase({_WRITTEN}[$__range]))"},
        kind="stat",
        width=6,
        thresholds={0.01: "yellow", 0.1: "green"},
        low_is_bad=True,
        alert="SpillwayTierWrittenNeverRead",
    ),
    Panel(
        "Headers and padding",
        "Bytes moved beside the payload, by payload, over the time shown.",
        "percentunit",
        {
            "overhead": f"sum(increase(spillway_hop_overhead_bytes_total{{{SIDECAR}}}[$__range]))"
            f" / sum(increase(spillway_hop_bytes_total{{{SIDECAR}}}[$__range]))"
        },
        kind="stat",
        width=6,
    ),
    Panel(
        "Tokens loaded per second",
        "By the tier that their chunks came from.",
        "short",
        {"{{tier}}": f"sum by (tier) (namespace_pool_tier:spillway_loaded_tokens:rate5m{{{SIDECAR}}})"},
        width=12,
    ),
    Panel(
        "Chunks evicted",
        "By tier, and those that left DRAM before NVMe had them: they are lost and will be computed again.",
        "cps",
        {
            "{{tier}}": f"sum by (tier) (rate(spillway_evicted_chunks_total{{{SIDECAR}}}[$__rate_interval]))",
            "lost": f"sum(rate(spillway_unwritten_evictions_total{{{SIDECAR}}}[$__rate_interval]))",
        },
        width=12,
        alert="SpillwayDramEvictsUnwritten",
    ),
)

_SECURITY = (
    Panel(
        "Chunks quarantined, by reason",
        "Chunks found damaged, gone or late before they were served. None of them was served.",
        "short",
        {"{{reason}}": f"sum by (reason) (increase(spillway_quarantined_chunks_total{{{SIDECAR}}}[$__rate_interval]))"},
        thresholds={1: "red"},
        alert="SpillwayChunksQuarantined",
    ),
    Panel(
        "Engine operations refused, by reason",
        "What an engine asked for and may not have. Faults of an adapter, or an engine that writes where no client writes.",
        "short",
        {"{{reason}}": f"sum by (reason) (increase(spillway_invalid_operations_total{{{SIDECAR}}}[$__rate_interval]))"},
        thresholds={1: "red"},
    ),
    Panel(
        "Fail-open events",
        "Engines that went on without Spillway, loads that were computed again, and faults contained to one engine.",
        "short",
        {
            "engines went on without": f"sum(increase(spillway_fail_open_total{{{SIDECAR}}}[$__rate_interval]))",
            "loads computed again": f"sum(increase(spillway_load_failures_total{{{SIDECAR}}}[$__rate_interval]))",
            "faults contained": f"sum(increase(spillway_panics_contained_total{{{SIDECAR}}}[$__rate_interval]))",
        },
        alert="SpillwayEngineFailsOpen",
    ),
)

BOARD = Board(
    "spillway-pool",
    "Spillway / Pool",
    "What a pool is worth: tokens served, what that costs in flash and memory, and whether what is served can be trusted.",
    by_pool=True,
    rows={"Technical": _TECHNICAL, "Economic": _ECONOMIC, "Security": _SECURITY},
)
