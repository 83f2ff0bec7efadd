"""What the operator counts over all pools and pods when it is scraped."""

from __future__ import annotations

from typing import Any

import pytest
from controller_builders import make_pod_body, make_pool_body
from prometheus_client import generate_latest
from spillway_operator.controller.census import (
    count_conditions,
    count_labelled_pods,
    count_open_breakers,
    count_outdated_pods,
    serve_census,
)
from spillway_operator.controller.observed import Observed
from spillway_operator.metrics import REGISTRY


def observe(*pods: dict[str, Any], **status: Any) -> Observed:
    observed = Observed()
    observed.put_pool(make_pool_body(status=status))
    for pod in pods:
        observed.put_pod(pod)
    return observed


def pod(name: str, **overrides: Any) -> dict[str, Any]:
    return make_pod_body(name, uid=name, **overrides)


def test_live_pods_are_counted_by_whether_they_have_a_sidecar() -> None:
    observed = observe(
        pod("injected"),
        pod("plain", injected=False),
        pod("ended", injected=False, phase="Succeeded"),
        pod("leaving", deletionTimestamp="2026-11-24T12:00:00Z"),
        pod("unwilling", injected=False, labels={"spillway.dev/pool": "chat", "spillway.dev/inject": "false"}),
    )
    assert [count_labelled_pods(observed, injected=injected) for injected in (True, False)] == [1, 1]


def test_pods_of_another_revision_are_outdated_once_the_pool_has_one() -> None:
    of = {"spillway.dev/pool": "chat"}
    pods = [pod(name, labels={**of, "spillway.dev/revision": name}) for name in ("new", "old")]
    assert count_outdated_pods(observe(*pods, sidecarRevision="new")) == 1
    assert count_outdated_pods(observe(*pods)) == 0


@pytest.mark.parametrize(("state", "expected"), [("Open", 1), ("Probing", 1), ("Closed", 0)])
def test_a_breaker_that_is_not_closed_is_open(state: str, expected: int) -> None:
    assert count_open_breakers(observe(pod("plain", injected=False), injection={"state": state})) == expected
    assert count_open_breakers(observe(injection={"state": state})) == 0, "without pods there is nothing to mend"


def test_pools_are_counted_by_condition() -> None:
    observed = observe(conditions=[{"type": "Degraded", "status": "True"}, {"type": "Ready", "status": "False"}])
    assert count_conditions(observed, "Degraded", "True") == 1
    assert count_conditions(observed, "Degraded", "False") == 0
    assert count_open_breakers(observe()) == count_conditions(observe(), "Ready", "False") == 0


def test_the_counts_are_made_when_they_are_scraped() -> None:
    observed = observe()
    serve_census(observed)
    assert 'spillway_operator_labelled_pods{injected="true"} 0.0' in generate_latest(REGISTRY).decode()
    observed.put_pod(pod("late"))
    assert 'spillway_operator_labelled_pods{injected="true"} 1.0' in generate_latest(REGISTRY).decode()
    serve_census(Observed())
