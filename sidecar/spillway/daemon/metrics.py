"""Every metric of the sidecar, declared once: name, kind, help, label. docs/metrics.md is generated from it.

Cardinality is bounded: labels are tiers, hops, outcomes and reasons, never a pod, key or tenant.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from spillway import _core
from spillway.daemon.heartbeat import restarts_by_cause
from spillway.daemon.snapshot import Snapshot

Values = dict[str, float]


@dataclass(frozen=True)
class Declared:
    """One metric. `read` gives {label value: figure}; without a label the one key is ""."""

    name: str
    kind: Literal["counter", "gauge"]
    help: str
    label: str
    read: Callable[[Snapshot], Values]


def _table(read: Callable[[_core.Stats], Mapping[str, float]]) -> Callable[[Snapshot], Values]:
    return lambda seen: dict(read(seen.stats)) if seen.stats else {}


def _figure(read: Callable[[_core.Stats], float]) -> Callable[[Snapshot], Values]:
    return _table(lambda stats: {"": float(read(stats))})


def _tier(read: Callable[[_core.TierStats], float]) -> Callable[[Snapshot], Values]:
    return _table(lambda stats: {name: read(tier) for name, tier in stats.tiers.items()})


def _counters(**names: str) -> Callable[[Snapshot], Values]:
    return lambda seen: {label: seen.counters.get(name, 0) for label, name in names.items()}


def _fail_open(seen: Snapshot) -> Values:
    return {"": seen.counters.get("fail_open", 0)}


def _alive(stats: _core.Stats) -> float:
    return sum(engine.alive for engine in stats.engines)


def _slots_taken(stats: _core.Stats) -> float:
    return float(stats.taken_slots)


METRICS: tuple[Declared, ...] = (
    Declared(
        "spillway_hop_bytes",
        "counter",
        "Payload bytes that crossed a hop.",
        "hop",
        _table(lambda stats: stats.hop_bytes),
    ),
    Declared(
        "spillway_hop_overhead_bytes",
        "counter",
        "Bytes of headers and padding that crossed a hop.",
        "hop",
        _table(lambda stats: stats.overhead_bytes),
    ),
    Declared(
        "spillway_tier_capacity_bytes",
        "gauge",
        "What a tier may hold.",
        "tier",
        _tier(lambda tier: tier.capacity_bytes),
    ),
    Declared("spillway_tier_used_bytes", "gauge", "Payload that a tier holds.", "tier", _tier(lambda tier: tier.bytes)),
    Declared("spillway_tier_chunks", "gauge", "Chunks that a tier holds.", "tier", _tier(lambda tier: tier.chunks)),
    Declared(
        "spillway_lookup_keys",
        "counter",
        "Keys that scheduled requests looked up, by what became of them: loaded (hit), loaded after a wait for NVMe, computed (miss).",
        "result",
        _counters(hit="hit_keys", nvme="nvme_keys", miss="miss_keys"),
    ),
    Declared(
        "spillway_looked_up_tokens",
        "counter",
        "Prompt tokens that engines looked up when they scheduled a request, beyond what they had on the device.",
        "",
        lambda seen: {"": seen.counters.get("looked_up_tokens", 0)},
    ),
    Declared(
        "spillway_loaded_tokens",
        "counter",
        "Of those, the tokens that loads brought, by the tier that their chunks came from.",
        "tier",
        _counters(dram="loaded_dram_tokens", nvme="loaded_nvme_tokens", other="loaded_other_tokens"),
    ),
    Declared(
        "spillway_moved_chunks",
        "counter",
        "Chunks that engines stored and loaded.",
        "direction",
        _counters(stored="stored_chunks", loaded="loaded_chunks"),
    ),
    Declared(
        "spillway_declined_stores",
        "counter",
        "Chunks that engines offered again and again and got no slot for: their request had none for seconds, or ended before.",
        "reason",
        _counters(no_slot="store_declined", ended="store_ended"),
    ),
    Declared(
        "spillway_load_failures",
        "counter",
        "Loads that failed in an engine and were recomputed.",
        "",
        lambda seen: {"": seen.counters.get("load_failures", 0)},
    ),
    Declared(
        "spillway_fail_open", "counter", "Times an engine went on without Spillway after a failure.", "", _fail_open
    ),
    Declared(
        "spillway_quarantined_chunks",
        "counter",
        "Chunks found damaged before they were served.",
        "reason",
        _table(lambda stats: stats.quarantined),
    ),
    Declared(
        "spillway_invalid_operations",
        "counter",
        "Operations of engines that were refused.",
        "reason",
        _table(lambda stats: stats.invalid_ops),
    ),
    Declared(
        "spillway_evicted_chunks", "counter", "Chunks evicted from a tier.", "tier", lambda seen: dict(seen.evicted)
    ),
    Declared(
        "spillway_unwritten_evictions",
        "counter",
        "Chunks evicted from DRAM before NVMe had them: they are lost. 0 without an NVMe tier.",
        "",
        lambda seen: {"": float(seen.unwritten_evictions)},
    ),
    Declared(
        "spillway_late_ios",
        "counter",
        "I/Os of the NVMe tier that took longer than they may.",
        "",
        _figure(lambda stats: stats.nvme.late_ios),
    ),
    Declared(
        "spillway_breaker_openings",
        "counter",
        "Times the NVMe tier was left because its device failed or hung.",
        "",
        _figure(lambda stats: stats.nvme.breaker_openings),
    ),
    Declared(
        "spillway_io_errors",
        "counter",
        "Reads and writes of the NVMe tier that failed.",
        "",
        _figure(lambda stats: stats.io_errors),
    ),
    Declared(
        "spillway_index_full",
        "counter",
        "Chunks not kept because their probe window was full.",
        "",
        _figure(lambda stats: stats.index_full),
    ),
    Declared(
        "spillway_index_displaced",
        "counter",
        "Chunks that left both tiers for a newer one, because the index was full where that belongs.",
        "",
        _figure(lambda stats: stats.index_displaced),
    ),
    Declared(
        "spillway_promotions_waiting",
        "gauge",
        "Chunks that engines wait for from NVMe.",
        "",
        _figure(lambda stats: stats.promotions_waiting),
    ),
    Declared(
        "spillway_promotions_declined",
        "counter",
        "Chunks that an engine asked for from NVMe while it waited for too many already.",
        "",
        _figure(lambda stats: stats.promotions_declined),
    ),
    Declared(
        "spillway_steps_expelled",
        "counter",
        "Scheduling steps that stood still for so long that evicted slots were used without waiting for them.",
        "",
        _figure(lambda stats: stats.steps_expelled),
    ),
    Declared(
        "spillway_panics_contained",
        "counter",
        "Faults of the core while it served one engine, which was refused for it.",
        "",
        _figure(lambda stats: stats.panics_contained),
    ),
    Declared("spillway_leases", "gauge", "DRAM slots leased to engines.", "", _figure(lambda stats: stats.leases_out)),
    Declared(
        "spillway_pinned_slots",
        "gauge",
        "DRAM slots pinned by load tickets.",
        "",
        _figure(lambda stats: stats.pinned_slots),
    ),
    Declared(
        "spillway_oldest_ticket_age_seconds",
        "gauge",
        "Age of the oldest load ticket that not every rank has acknowledged.",
        "",
        _figure(lambda stats: stats.oldest_ticket_seconds),
    ),
    Declared(
        "spillway_quarantined_slots",
        "gauge",
        "DRAM slots held back for a read of a dead daemon.",
        "",
        _figure(lambda stats: stats.quarantined_slots),
    ),
    Declared(
        "spillway_reading_slots",
        "gauge",
        "DRAM slots that are read into from NVMe.",
        "",
        _figure(lambda stats: stats.reads_in_flight),
    ),
    Declared(
        "spillway_recycling_slots",
        "gauge",
        "DRAM slots that were evicted and wait for readers.",
        "",
        _figure(lambda stats: stats.recycling_slots),
    ),
    Declared(
        "spillway_taken_slots",
        "gauge",
        "DRAM slots that are not free: with a chunk, leased, read into, recycling or quarantined.",
        "",
        _figure(_slots_taken),
    ),
    Declared(
        "spillway_faulted_bytes",
        "gauge",
        "Arena bytes that are backed by memory.",
        "",
        _figure(lambda stats: stats.faulted_bytes),
    ),
    Declared(
        "spillway_engines",
        "gauge",
        "Engines that are attached and alive.",
        "",
        _figure(_alive),
    ),
    Declared(
        "spillway_nvme_state",
        "gauge",
        "NVMe tier: 0 off, 1 serving while it scans, 2 serving, 3 breaker open.",
        "",
        _figure(lambda stats: stats.nvme.state),
    ),
    Declared(
        "spillway_nvme_rung",
        "gauge",
        "1 for the way in which the NVMe tier reads and writes; /status says why not in a better one.",
        "rung",
        _table(lambda stats: {stats.nvme.rung: 1.0} if stats.nvme.rung else {}),
    ),
    Declared(
        "spillway_direct_io",
        "gauge",
        "1 when O_DIRECT was proved at open by a write, a read and a comparison.",
        "",
        _figure(lambda stats: stats.nvme.direct),
    ),
    Declared(
        "spillway_daemon_restarts",
        "gauge",
        "Daemons that ended in this container before this one: by themselves, by a signal, because they stood still, or not started.",
        "cause",
        lambda _seen: {cause: float(count) for cause, count in restarts_by_cause().items()},
    ),
)


class SidecarCollector(Collector):
    """Turns one snapshot per scrape into metrics. Before the plane is open only what needs no plane is there."""

    def __init__(self, snapshot: Callable[[], Snapshot]) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterator[Metric]:
        seen = self._snapshot()
        for declared in METRICS:
            if seen.stats or declared.name == "spillway_daemon_restarts":
                yield _family(declared, declared.read(seen).items())

    def describe(self) -> Iterable[Metric]:
        return [_family(declared, ()) for declared in METRICS]


def _family(declared: Declared, values: Iterable[tuple[str, Any]]) -> Metric:
    make = CounterMetricFamily if declared.kind == "counter" else GaugeMetricFamily
    family = make(declared.name, declared.help, labels=[declared.label] if declared.label else [])
    for label, value in values:
        family.add_metric([label] if declared.label else [], value)
    return family
