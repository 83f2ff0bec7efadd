"""From facts to status.KVCachePool, and whether it is worth a write."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from spillway_operator.api import Condition, DiskStatus, Member, PodCounts, PoolStatus, Reason
from spillway_operator.api.names import API_VERSION, KIND
from spillway_operator.api.pool import Metadata
from spillway_operator.api.status import MAX_MEMBERS, ConditionType
from spillway_operator.controller.conditions import Verdict, stamp_conditions
from spillway_operator.controller.facts import MemberState, PoolFacts
from spillway_operator.controller.pace import Burst
from spillway_operator.controller.tiers import build_hit, build_tiers, seconds_until_write
from spillway_operator.kube.resources import Manifest

# Whether new pods are injected: a rollout that waits for it must not wait for counts.
ACTED_ON: Final[tuple[ConditionType, ...]] = ("ConfigValid", "InjectionReady")
SAID_BY_SIDECARS: Final[tuple[ConditionType, ...]] = ("StorageProvisioned", "Degraded")


@dataclass(frozen=True)
class StatusWrite:
    """A status to write now (`status`), or later (`again_seconds`), or neither."""

    status: PoolStatus | None
    again_seconds: float | None = None


def build_status(
    facts: PoolFacts,
    members: Sequence[MemberState],
    verdicts: dict[ConditionType, Verdict],
    previous: PoolStatus,
    disk_nodes: Sequence[str],
) -> PoolStatus:
    """The whole status as it should stand now.

    While sidecars are unread after this process began, what only they can say stays as it was: a restart is no news of a pool.
    """
    observations = [observation for _, observation in facts.observations]
    tiers, hit = build_tiers(observations), build_hit(observations)
    now_members = tuple(_build_member(member) for member in members[:MAX_MEMBERS])
    if facts.unread:
        verdicts = {**verdicts, **_as_before(verdicts, previous)}
        tiers, hit = previous.tiers, previous.hit
        if _stand_as_before(facts, previous):
            now_members = previous.members
    return PoolStatus(
        observed_generation=facts.generation,
        conditions=stamp_conditions(verdicts, previous.conditions, facts.generation, facts.now),
        pods=count_pods(facts),
        # Until somebody reports the last figures stay, as old as they say.
        tiers=tiers or previous.tiers,
        hit=hit if tiers else previous.hit,
        members=now_members,
        disk=DiskStatus(nodes=tuple(sorted(disk_nodes))) if disk_nodes else None,
        sidecar_revision=facts.revision or None,
        injection=facts.injection,
    )


def _stand_as_before(facts: PoolFacts, previous: PoolStatus) -> bool:
    """Whether the list of the worst members, of whose faults only sidecars know, can be the one from before."""
    names = {pod.name for pod in facts.pods}
    return previous.pods == count_pods(facts) and all(member.pod in names for member in previous.members)


def _as_before(verdicts: dict[ConditionType, Verdict], previous: PoolStatus) -> dict[ConditionType, Verdict]:
    """The conditions that sidecars decide, as they stand; where this pool's specification decides otherwise it does."""
    kept: dict[ConditionType, Verdict] = {}
    for condition in previous.conditions:
        if condition.type in SAID_BY_SIDECARS and verdicts[condition.type][1] != Reason.DRAM_ONLY:
            kept[condition.type] = (condition.status, condition.reason, condition.message)
    return kept


def count_pods(facts: PoolFacts) -> PodCounts:
    """Count the labelled pods that are neither finished nor leaving."""
    injected = facts.injected
    return PodCounts(
        labelled=len(facts.pods),
        injected=len(injected),
        ready=sum(pod.ready for pod in injected),
        outdated=sum(bool(facts.revision) and pod.revision != facts.revision for pod in injected),
        skipped=len(facts.skipped),
    )


def decide_write(previous: PoolStatus, current: PoolStatus, facts: PoolFacts, burst: Burst) -> StatusWrite:
    """What others act on at once, other fast facts at the pace of pace.py, slow facts at that of tiers.py; nothing where nothing differs.

    The webhook acts on the injection breaker, whoever waits for a rollout of a change on generation and revision, a deletion on the
    nodes that are named. `burst` takes note of what is wanted; whoever writes tells it by `count_write`.
    """
    burst.see(_said(current), facts.now)
    if _acted_on(previous) != _acted_on(current):
        return StatusWrite(current)
    if _said(previous) != _said(current):
        wait_seconds: float | None = burst.wait_seconds(facts.now, turned=_has_turned(previous, current))
    else:
        wait_seconds = seconds_until_write(previous, current, facts.now)
        if wait_seconds is not None:
            wait_seconds = max(wait_seconds, burst.rest_seconds(facts.now))
    if wait_seconds is None:
        return StatusWrite(None)
    return StatusWrite(current) if wait_seconds == 0 else StatusWrite(None, wait_seconds)


def count_write(previous: PoolStatus, written: PoolStatus, facts: PoolFacts, burst: Burst) -> None:
    """The API server took the write. One of slow facts alone belongs to no burst: it comes every 5 minutes in the calmest pool."""
    if _said(previous) != _said(written):
        burst.count(facts.now, turned=_has_turned(previous, written))


def _has_turned(previous: PoolStatus, current: PoolStatus) -> bool:
    """Whether a condition has another status."""
    return {c.type: c.status for c in previous.conditions} != {c.type: c.status for c in current.conditions}


def build_status_manifest(metadata: Metadata, status: PoolStatus) -> Manifest:
    """What is applied to the status subresource. The uid makes it miss a pool of the same name that came later."""
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {"name": metadata.name, "namespace": metadata.namespace, "uid": metadata.uid},
        "status": status.model_dump(mode="json", by_alias=True, exclude_none=True),
    }


def _said(status: PoolStatus) -> object:
    """The fast facts. When a condition turned follows from its status."""
    conditions = tuple(
        (c.type, c.status, c.reason, c.message, c.observed_generation) for c in sorted(status.conditions, key=_type_of)
    )
    return _acted_on(status), conditions, status.pods, status.members


def _acted_on(status: PoolStatus) -> object:
    turned = tuple((c.type, c.status, c.reason) for c in sorted(status.conditions, key=_type_of) if c.type in ACTED_ON)
    return status.observed_generation, status.sidecar_revision, status.disk, status.injection, turned


def _type_of(condition: Condition) -> str:
    return condition.type


def _build_member(member: MemberState) -> Member:
    pod = member.pod
    return Member(
        pod=pod.name,
        node=pod.node or None,
        revision=pod.revision or None,
        ready=pod.ready,
        reason=member.reason or None,
    )
