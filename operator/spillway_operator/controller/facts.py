"""One observation of a pool, gathered before anything is decided, and what each pod's state amounts to.

The functions that decide (here and in conditions.py, tiers.py) are pure: facts in, words out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import IntEnum

from spillway_operator.api import Fault, InjectionStatus, Reason, SkipReason
from spillway_operator.controller.members import Observation
from spillway_operator.controller.observed import PodView

# An engine takes minutes to load its model; a pod without a readiness probe is "ready" all that time.
ATTACH_GRACE = timedelta(minutes=10)
STALE_AFTER = timedelta(minutes=1)


class Severity(IntEnum):
    """How bad a member's state is; the worst come first in status.members."""

    FAULT = 0
    STARTING = 1
    NOTE = 2
    FINE = 3


@dataclass(frozen=True)
class MemberState:
    """What a person should know of one pod."""

    pod: PodView
    severity: Severity
    reason: str = ""
    message: str = ""


@dataclass(frozen=True)
class PoolFacts:
    """All that the status of a pool is decided from."""

    generation: int
    fault: Fault | None
    webhook_problem: str
    pods: tuple[PodView, ...]
    observations: tuple[tuple[PodView, Observation | None], ...]
    revision: str
    wants_nvme: bool
    now: datetime
    config_map_problem: str = ""
    injection: InjectionStatus | None = None
    # This process has just begun: a sidecar that it has not read yet may have been read by the one before.
    just_begun: bool = False

    @property
    def unread(self) -> bool:
        """Whether what sidecars say is not known yet, which is not the same as that they say nothing."""
        return self.just_begun and any(pod.ready and seen is None for pod, seen in self.observations)

    @property
    def injected(self) -> list[PodView]:
        return [pod for pod in self.pods if pod.injected]

    @property
    def skipped(self) -> list[PodView]:
        return [pod for pod in self.pods if pod.bare]


def decide_members(facts: PoolFacts) -> list[MemberState]:
    """The state of every labelled pod, the worst first, by name within a severity."""
    observations = {pod.uid: observation for pod, observation in facts.observations}
    states = [
        decide_member(pod, observations.get(pod.uid), facts.revision, facts.now)
        for pod in facts.pods if not pod.excluded
    ]  # fmt: skip
    return sorted(states, key=lambda state: (state.severity, state.pod.name))


def decide_member(pod: PodView, observation: Observation | None, revision: str, now: datetime) -> MemberState:
    """The worst thing that is true of one pod."""
    if pod.bare:
        why = SkipReason.explain(pod.skipped) or "it started without a sidecar"
        return MemberState(pod, Severity.FAULT, pod.skipped or Reason.NOT_INJECTED, why)
    if pod.symptom is not None and pod.symptom.proven:
        return MemberState(pod, Severity.FAULT, pod.symptom.reason, pod.symptom.message)
    said = observation.report.conditions if observation is not None else ()
    for condition in said:
        if condition.is_fault:
            return MemberState(pod, Severity.FAULT, condition.reason, condition.message)
    if _is_unreachable(pod, observation, now):
        return MemberState(pod, Severity.FAULT, Reason.SIDECAR_UNREACHABLE, "the sidecar has not answered for a minute")
    if _engine_never_attached(pod, observation, now):
        message = "its engine has not attached in 10 minutes; does its image ignore PYTHONPATH?"
        return MemberState(pod, Severity.FAULT, Reason.ENGINE_NEVER_ATTACHED, message)
    if not pod.ready:
        return MemberState(pod, Severity.STARTING, Reason.NOT_READY)
    if revision and pod.revision != revision:
        return MemberState(pod, Severity.NOTE, Reason.OUTDATED)
    if said:
        return MemberState(pod, Severity.NOTE, said[0].reason, said[0].message)
    return MemberState(pod, Severity.FINE)


def next_change_seconds(facts: PoolFacts) -> float | None:
    """When time alone may change a member's state: the nearest such moment from now, or None."""
    moments = [facts.now + STALE_AFTER] if facts.unread else []
    for pod, observation in facts.observations:
        if pod.ready and pod.ready_at is not None:
            seen_at = observation.observed_at if observation is not None else pod.ready_at
            moments.append(max(seen_at, pod.ready_at) + STALE_AFTER)
            if observation is not None and observation.report.engines_attached_ever == 0:
                moments.append(pod.ready_at + ATTACH_GRACE)
    ahead = [(moment - facts.now).total_seconds() for moment in moments if moment > facts.now]
    return min(ahead) + 1.0 if ahead else None


def _is_unreachable(pod: PodView, observation: Observation | None, now: datetime) -> bool:
    if not pod.ready or pod.ready_at is None:
        return False
    seen_at = pod.ready_at if observation is None else max(observation.observed_at, pod.ready_at)
    return now - seen_at > STALE_AFTER


def _engine_never_attached(pod: PodView, observation: Observation | None, now: datetime) -> bool:
    if observation is None or not pod.ready or pod.ready_at is None:
        return False
    return observation.report.engines_attached_ever == 0 and now - pod.ready_at > ATTACH_GRACE


def summarise(states: Sequence[MemberState], of: int) -> str:
    """Say how many pods and, of the first, which, where and why: "1 of 3 pods: VolumeTooSmall (chat-7f on node-1: ...)"."""
    first = states[0]
    where = f"{first.pod.name} on {first.pod.node}" if first.pod.node else first.pod.name
    detail = f"{where}: {first.message}" if first.message else where
    return f"{len(states)} of {of} pods: {first.reason} ({detail})"[:2000]
