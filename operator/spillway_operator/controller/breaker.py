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

from spillway_operator.api import InjectionStatus
from spillway_operator.controller.observed import PodView

# A registry that stumbles is there again when the kubelet asks the second time, 10 s later.
GRACE = timedelta(seconds=15)
TRY_AFTER = timedelta(minutes=5)
# How long after its pod's admission a symptom may be seen first.
LATE = 2 * GRACE
_MAX_MESSAGE_CHARACTERS = 500


@dataclass(frozen=True)
class Failure:
    """A pod that cannot start because of what was injected, what holds it up, and since when that was seen, on our clock."""

    pod: PodView
    reason: str
    message: str
    began: datetime

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

    `failures` are those that have lasted for `GRACE`. What began before a state did is no news in it: such pods are made again
    (stuck_pods.py), and judged then.
    """
    if not revision:
        return None  # no pod is injected for another reason
    before = previous if previous is not None and previous.revision == revision else None
    failures = [failure for failure in failures if failure.pod.revision == revision]
    if before is None:
        return _open(failures[0], revision, now) if failures else None
    if before.state == "Closed":
        fresh = [failure for failure in failures if failure.began >= before.since]
        return _open(fresh[0], revision, now) if fresh else before
    # When it was initialised, not when it was ready last: a probe that fails once is no start.
    started = (p for p in pods if p.injected and p.ready and p.revision == revision)
    healthy = any(p.initialized_at is not None and p.initialized_at >= before.since for p in started)
    if healthy and (before.state == "Probing" or not failures):
        return _move(before, "Closed", now)
    # A trial that came late in its five minutes is judged in the next.
    tried = [failure for failure in failures if failure.began >= before.since - LATE]
    if before.state == "Probing" and tried:
        return _open(tried[0], revision, now)
    if before.state == "Probing" and not pods:
        return before  # the trial is still there for whoever comes
    # Nobody came, or who came waits for something else: another one may try.
    return _move(before, "Probing", now) if now - before.since >= TRY_AFTER else before


def next_try_seconds(status: InjectionStatus | None, now: datetime) -> float | None:
    """When time alone changes the breaker, in seconds from now; None where it does not."""
    if status is None or status.state == "Closed":
        return None
    left_seconds = (status.since + TRY_AFTER - now).total_seconds()
    if status.state == "Probing" and left_seconds < 0:
        return None  # there is no pod; one that comes is an event
    return max(0.0, left_seconds) + 1.0


def _open(failure: Failure, revision: str, now: datetime) -> InjectionStatus:
    return InjectionStatus(
        state="Open", reason=failure.reason, message=failure.words(), since=_second(now), revision=revision
    )


def _move(before: InjectionStatus, state: str, now: datetime) -> InjectionStatus:
    return before.model_copy(update={"state": state, "since": _second(now)})


def _second(moment: datetime) -> datetime:
    # What is stored has whole seconds, and what is stored is compared with what is decided.
    return moment.replace(microsecond=0)
