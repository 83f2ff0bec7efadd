"""docs/metrics.md and the declared metrics are the same set."""

from __future__ import annotations

from pathlib import Path

from prometheus_client import CollectorRegistry
from spillway.daemon.metrics import METRICS
from spillway_operator import metrics as operator_metrics
from spillway_operator.webhook import metrics as webhook_metrics

DOCS = Path(__file__).resolve().parents[3] / "docs" / "metrics.md"


def names(registry: CollectorRegistry) -> set[str]:
    return {m.name + ("_total" if m.type == "counter" else "") for m in registry.collect()}


def test_page_tells_of_every_metric_and_of_no_other() -> None:
    rows = [line.split("|") for line in DOCS.read_text().splitlines() if line.startswith("| `spillway_")]
    told = [cells[1].strip().strip("`") for cells in rows]
    sidecar = {m.name + ("_total" if m.kind == "counter" else "") for m in METRICS}
    declared = sidecar | names(operator_metrics.REGISTRY) | names(webhook_metrics.REGISTRY)
    assert sorted(told) == sorted(declared)
