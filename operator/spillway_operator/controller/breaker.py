"""The injection breaker of a pool: while sidecars keep pods from starting, new pods start without one. Pure.

Closed: pods are injected. A pod of the current revision that cannot start because of us opens it. Open: the webhook starts new pods
plain. After `TRY_AFTER` it is half open (Probing): the webhook injects one pod; if that gets ready the breaker closes, if it cannot start
the breaker opens again. Another revision begins closed: what was held against an earlier one says nothing of it.

The state lives in `status.injection`, because the webhook has no other way to know.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from spillway_operator.api import InjectionStatus, Reason, SkipReason
from spillway_operator.controller.observed import PodView

# A registry that stumbles is there again when the kubelet asks the second time, 10 s later.
GRACE = timedelta(seconds=15)
TRY_AFTER = timedelta(minutes=5)
_MAX_MESSAGE_CHARACTERS = 500


@dataclass(frozen=True)
class Failure:
    """A pod that cannot start because of what was injected, and what holds it up."""

    pod: PodView
    reason: str
    message: str

    def words(self) -> str:
        return f"pod {self.pod.name}: {self.reason}: {self.message}"[:_MAX_MESSAGE_CHARACTERS]


def decide_injection(
    previous: InjectionStatus | None,
    failures: Sequence[Failure],
    pods: Sequence[PodView],
    revision: str,
    now: datetime,
) -> InjectionStatus | None:
    """The breaker as it should stand; None is a breaker that never opened for this revision.

    `failures` are those that have lasted for `GRACE`.
    """
    if not revision:
        return None  # no pod is injected for another reason
    before = previous if previous is not None and previous.revision == revision else None
    failures = [failure for failure in failures if failure.pod.revision == revision]
    if before is not None and before.state == "Open" and _is_shortage_of_all(before, pods):
        return _move(before, "Closed", now)
    if before is None or before.state == "Closed":
        fresh = [failure for failure in failures if before is None or _is_after(failure.pod.created_at, before.since)]
        return _open(fresh[0], revision, now) if fresh else before
    healthy = any(
        p.injected and p.ready and p.revision == revision and _is_after(p.ready_at, before.since) for p in pods
    )
    if before.state == "Open":
        if healthy and not failures:
            return _move(before, "Closed", now)
        return _move(before, "Probing", now) if now - before.since >= TRY_AFTER else before
    if healthy:
        return _move(before, "Closed", now)
    tried = [failure for failure in failures if _is_after(failure.pod.created_at, before.since)]
    if tried:
        return _open(tried[0], revision, now)
    # Nobody came, or who came waits for something else: another one may try.
    return _move(before, "Probing", now) if now - before.since >= TRY_AFTER else before


def next_try_seconds(status: InjectionStatus | None, now: datetime) -> float | None:
    """When time alone changes the breaker, in seconds from now; None where it does not."""
    if status is None or status.state == "Closed":
        return None
    return max(0.0, (status.since + TRY_AFTER - now).total_seconds()) + 1.0


def _is_shortage_of_all(status: InjectionStatus, pods: Sequence[PodView]) -> bool:
    """Whether a pod does not fit without us either: then the cluster is full, and starting plain helps nobody."""
    return status.reason == Reason.DOES_NOT_FIT and any(
        pod.skipped == SkipReason.SIDECAR_UNAVAILABLE and pod.unschedulable for pod in pods
    )


def _open(failure: Failure, revision: str, now: datetime) -> InjectionStatus:
    return InjectionStatus(
        state="Open", reason=failure.reason, message=failure.words(), since=_second(now), revision=revision
    )


def _move(before: InjectionStatus, state: str, now: datetime) -> InjectionStatus:
    return before.model_copy(update={"state": state, "since": _second(now)})


def _second(moment: datetime) -> datetime:
    # What is stored has whole seconds, and what is stored is compared with what is decided.
    return moment.replace(microsecond=0)


def _is_after(moment: datetime | None, since: datetime) -> bool:
    return moment is not None and moment >= since
