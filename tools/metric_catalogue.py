"""Every metric that Spillway serves, read from where each process declares it; docs/metrics.md is rendered from it.

Boards and alerts may query what stands here and `FOREIGN`, and nothing else: a test compares.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import get_args

from prometheus_client.metrics import MetricWrapperBase
from spillway.daemon.heartbeat import CAUSES
from spillway.daemon.metrics import METRICS
from spillway_operator import metrics as operator_metrics
from spillway_operator.api import SkipReason
from spillway_operator.api.status import ConditionStatus, ConditionType
from spillway_operator.controller.observed import UNKNOWN_SKIP
from spillway_operator.kube import resources
from spillway_operator.kube.reflector import WatchMetrics
from spillway_operator.webhook import metrics as webhook_metrics

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "metrics.md"
_CORE = ROOT / "sidecar" / "core" / "engine" / "src" / "plane"


@dataclass(frozen=True)
class Entry:
    """One metric. `name` is the one to query, `_total` included; of a histogram it is the stem. `values` are all its label may have."""

    process: str
    name: str
    kind: str
    meaning: str
    labels: dict[str, tuple[str, ...]]

    @property
    def unit(self) -> str:
        """What one of it is, by the name's own words."""
        stem = self.name.removesuffix("_total")
        if stem.endswith("_timestamp_seconds"):
            return "Unix time, seconds"
        words = re.findall(
            "bytes|seconds|tokens|chunks|keys|slots|pods|pools|objects|tickets|leases|engines|breakers", stem
        )
        return words[-1] if words else "-"

    @property
    def series(self) -> tuple[str, ...]:
        """Names that a query may use."""
        if self.kind == "histogram":
            return tuple(f"{self.name}_{suffix}" for suffix in ("bucket", "count", "sum"))
        return (self.name,)


# What others serve, and an alert needs: name and who serves it.
FOREIGN = {
    "apiserver_admission_webhook_fail_open_count": "of the Kubernetes API server",
    "up": "of Prometheus",
    "ALERTS": "of Prometheus",
}


def catalogue() -> tuple[Entry, ...]:
    """Every metric, by process and in the order of declaration."""
    return (
        *_sidecar(),
        *_registered("operator", operator_metrics, _operator_values()),
        *_registered("webhook", webhook_metrics, _webhook_values()),
    )


def _sidecar() -> list[Entry]:
    values = {
        "hop": _rust_names("stats.rs", "HOPS"),
        "tier": ("dram", "nvme"),
        "result": ("hit", "nvme", "miss"),
        "direction": ("stored", "loaded"),
    }
    own = {
        "spillway_loaded_tokens": ("dram", "nvme", "other"),
        "spillway_quarantined_chunks": _rust_names("event.rs", "OUTCOMES"),
        "spillway_invalid_operations": _rust_names("stats.rs", "INVALID_OPS"),
        "spillway_declined_stores": ("no_slot", "ended"),
        "spillway_nvme_rung": ("io_uring_registered", "io_uring", "threads"),
        "spillway_daemon_restarts": CAUSES,
    }
    entries = []
    for metric in METRICS:
        labels = {metric.label: own.get(metric.name) or values[metric.label]} if metric.label else {}
        entries.append(Entry("sidecar", _query_name(metric.name, metric.kind), metric.kind, metric.help, labels))
    return entries


def declared_in(module: ModuleType) -> list[MetricWrapperBase]:
    """The metrics that a module declares, by name or as parts of what it declares."""
    parts = [part for value in vars(module).values() for part in _parts(value)]
    # Once each: a loop of the module may have left a name of its own on one.
    return list(dict.fromkeys(part for part in parts if isinstance(part, MetricWrapperBase)))


def _registered(process: str, module: ModuleType, values: dict[str, tuple[str, ...]]) -> list[Entry]:
    """The metrics of a module. prometheus_client tells the labels of a metric without children by no public name."""
    entries = []
    for metric in declared_in(module):
        labels = {label: values.get(f"{metric._name}.{label}") or values[label] for label in metric._labelnames}
        name = _query_name(metric._name, metric._type)
        entries.append(Entry(process, name, str(metric._type), metric._documentation, labels))
    return entries


def _parts(value: object) -> Iterable[object]:
    """What a name of a module stands for: itself, or the metrics of a set of them."""
    return vars(value).values() if isinstance(value, WatchMetrics) else (value,)


def _operator_values() -> dict[str, tuple[str, ...]]:
    known = [value for value in vars(resources).values() if isinstance(value, resources.Resource)]
    return {
        "kind": tuple(resource.kind for resource in known),
        "verb": ("apply", "create", "replace", "delete"),
        "result": ("done", "retried"),
        "outcome": ("ok", "unreachable", "refused", "unreadable"),
        "reason": (*(str(reason) for reason in SkipReason), UNKNOWN_SKIP),
        "edge": ("work_queue",),
        "injected": ("true", "false"),
        "type": get_args(ConditionType),
        "status": get_args(ConditionStatus),
        **_watched("operator_watched_objects", resources.POOLS, resources.PODS, resources.CONFIG_MAPS),
    }


def _webhook_values() -> dict[str, tuple[str, ...]]:
    return {
        "outcome": ("injected", "unchanged", "skipped", "probed"),
        "reason": tuple(str(reason) for reason in SkipReason),
        "kind": ("unreadable-review", "api-server", "unexpected"),
        "answer": ("admissible", "refused", "undecided", "unasked"),
        **_watched("webhook_cached_objects", resources.POOLS, resources.NAMESPACES, resources.LIMIT_RANGES),
        "spillway_webhook_live_reads.kind": (resources.POOLS.plural, resources.NAMESPACES.plural),
    }


def _watched(stem: str, *kinds: resources.Resource) -> dict[str, tuple[str, ...]]:
    """The kinds that a process follows, for the metrics that its reflectors count in."""
    plurals = tuple(kind.plural for kind in kinds)
    return {f"spillway_{name}.kind": plurals for name in (stem, *(f"{stem.split('_')[0]}_{n}" for n in _OF_WATCHES))}


_OF_WATCHES = ("watch_restarts", "untaken_objects")


def _query_name(name: str, kind: str | None) -> str:
    return f"{name}_total" if kind == "counter" else name


def _rust_names(file: str, constant: str) -> tuple[str, ...]:
    found = re.search(rf"pub const {constant}: \[&str; \d+\] = \[([^\]]*)\]", (_CORE / file).read_text())
    if found is None:
        raise SystemExit(
            f"{_CORE / file}: no list of names `{constant}`; tools/metric_catalogue.py reads label values there"
        )
    return tuple(re.findall(r'"([^"]+)"', found[1]))
