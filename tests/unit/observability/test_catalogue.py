"""The catalogue and what is served are the same, and promtool finds nothing to say about either."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from tests.unit.observability.prometheus_tools import promtool
from tests.unit.observability.sidecar import ServedSidecar
from tools.metric_catalogue import PAGE, Entry, catalogue
from tools.metrics_page import render

Registries = dict[str, CollectorRegistry]
Expose = Callable[[str], str]
PROCESSES = ("sidecar", "operator", "webhook")


@pytest.fixture
def expose(sidecar: ServedSidecar, registries: Registries) -> Expose:
    """What a process answers a scrape with."""
    return lambda process: sidecar.metrics() if process == "sidecar" else generate_latest(registries[process]).decode()


def entries_of(process: str) -> list[Entry]:
    return [entry for entry in catalogue() if entry.process == process]


def test_page_is_the_catalogue() -> None:
    """`make lint` says it too; a run of the tests alone must not miss it."""
    assert PAGE.read_text() == render()


@pytest.mark.parametrize("process", PROCESSES)
def test_promtool_finds_no_breach_of_prometheus_conventions(process: str, expose: Expose) -> None:
    assert promtool("check", "metrics", text=expose(process)) == ""


@pytest.mark.parametrize("process", PROCESSES)
def test_every_metric_served_is_in_the_catalogue_and_the_reverse(process: str, expose: Expose) -> None:
    served = {
        (family.name + "_total" * (family.type == "counter"), family.type)
        for family in text_string_to_metric_families(expose(process))
        if not family.name.endswith("_created")
    }
    assert served == {(entry.name, entry.kind) for entry in entries_of(process)}


@pytest.mark.parametrize("process", PROCESSES)
def test_no_label_has_a_value_that_is_not_in_the_catalogue(process: str, expose: Expose) -> None:
    allowed = {entry.name: entry.labels for entry in entries_of(process)}
    for family in text_string_to_metric_families(expose(process)):
        if family.name.endswith("_created"):
            continue
        labels = allowed.get(family.name + "_total" * (family.type == "counter"), {})
        for sample in family.samples:
            for label, value in sample.labels.items():
                assert label == "le" or value in labels[label], sample


def test_no_label_names_what_a_user_made() -> None:
    """Each value is listed, so their number is bounded; these would not be."""
    for entry in catalogue():
        assert not {"pod", "pool", "namespace", "node", "tenant", "key"} & set(entry.labels), entry.name
        assert all(len(values) <= 20 for values in entry.labels.values()), entry.name


def test_names_carry_their_unit_last() -> None:
    for entry in catalogue():
        stem = entry.name.removesuffix("_total")
        assert not re.search("_(ms|milliseconds|minutes|mib|gib|percent|kb)$", stem), entry.name
        for unit in ("bytes", "seconds"):
            assert unit not in stem or stem.endswith(unit), entry.name
