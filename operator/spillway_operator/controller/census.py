"""Counts over all pools and pods, made at each scrape: nothing is counted up and down along the way, so nothing drifts."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final, get_args

from prometheus_client import Gauge

from spillway_operator.api.status import ConditionStatus, ConditionType
from spillway_operator.controller.observed import Observed
from spillway_operator.metrics import LABELLED_PODS, OPEN_BREAKERS, OUTDATED_PODS, POOL_CONDITIONS

CLOSED: Final = "Closed"


def serve_census(observed: Observed) -> None:
    """From here on the gauges tell of `observed`. The leader alone calls it: a standby sees nothing and says nothing."""
    for injected in (True, False):
        _serve(LABELLED_PODS.labels(str(injected).lower()), partial(count_labelled_pods, observed, injected=injected))
    _serve(OUTDATED_PODS, partial(count_outdated_pods, observed))
    _serve(OPEN_BREAKERS, partial(count_open_breakers, observed))
    for kind in get_args(ConditionType):
        for status in get_args(ConditionStatus):
            _serve(POOL_CONDITIONS.labels(kind, status), partial(count_conditions, observed, kind, status))


def count_labelled_pods(observed: Observed, *, injected: bool) -> int:
    """Pods that are neither finished nor leaving, with or without a sidecar; those that want none are not counted."""
    return sum(pod.injected == injected for pod in observed.live_pods() if not pod.excluded)


def count_outdated_pods(observed: Observed) -> int:
    """Injected pods of another revision than a new pod of their pool would get."""
    revisions = {key: _status(observed, key).get("sidecarRevision") for key in observed.pools()}
    return sum(
        pod.injected and bool(revisions.get(pod.key)) and pod.revision != revisions[pod.key]
        for pod in observed.live_pods()
    )


def count_open_breakers(observed: Observed) -> int:
    """Pools with pods whose injection breaker is open or tries one. Without pods there is nobody to try and nothing to mend."""
    states = [
        (_status(observed, key).get("injection") or {}).get("state", CLOSED)
        for key in observed.pools()
        if any(pod.live for pod in observed.pods(key))
    ]
    return sum(state != CLOSED for state in states)


def count_conditions(observed: Observed, kind: str, status: str) -> int:
    """Pools whose condition `kind` is `status`, by the status that was written last."""
    every = (_status(observed, key).get("conditions") or [] for key in observed.pools())
    return sum(any((c.get("type"), c.get("status")) == (kind, status) for c in conditions) for conditions in every)


def _serve(gauge: Gauge, count: Callable[[], int]) -> None:
    gauge.set_function(count)


def _status(observed: Observed, key: Any) -> dict[str, Any]:
    return (observed.pool(key) or {}).get("status") or {}
