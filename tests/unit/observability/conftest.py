"""What the processes serve: a sidecar's own HTTP, and the registries of operator and webhook."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from spillway_operator import metrics as operator_metrics
from spillway_operator.webhook import metrics as webhook_metrics

from tests.unit.observability.sidecar import ServedSidecar
from tools.metric_catalogue import catalogue, declared_in


@pytest.fixture(scope="session")
def sidecar() -> Iterator[ServedSidecar]:
    with tempfile.TemporaryDirectory(prefix="spillway-test-", dir="/dev/shm") as folder:
        served = ServedSidecar(Path(folder))
        try:
            served.attach()
            served.work(0)
            yield served
        finally:
            served.end()


@pytest.fixture(scope="session")
def registries() -> dict[str, CollectorRegistry]:
    """Of operator and webhook, each label with every value of the catalogue, as after a long life."""
    modules = {"operator": operator_metrics, "webhook": webhook_metrics}
    for process, module in modules.items():
        declared = {metric._name: metric for metric in declared_in(module)}
        for entry in catalogue():
            if entry.process == process and entry.labels:
                for values in _combinations(entry.labels):
                    declared[entry.name.removesuffix("_total")].labels(**values)
    return {process: module.REGISTRY for process, module in modules.items()}


def _combinations(labels: dict[str, tuple[str, ...]]) -> list[dict[str, str]]:
    """One set per value of each label, with the first value of the others."""
    first = {label: values[0] for label, values in labels.items()}
    return [{**first, label: value} for label, values in labels.items() for value in values]
