"""From facts to status.KVCachePool, and whether it is worth a write."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from spillway_operator.api import DiskStatus, Member, PodCounts, PoolStatus, Reason
from spillway_operator.api.names import API_VERSION, KIND
from spillway_operator.api.pool import Metadata
from spillway_operator.api.status import MAX_MEMBERS, ConditionType
from spillway_operator.controller.conditions import Verdict, stamp_conditions
from spillway_operator.controller.facts import Facts, MemberState
from spillway_operator.controller.tiers import build_hit, build_tiers, seconds_until_write
from spillway_operator.kube.resources import Manifest

SAID_BY_SIDECARS: Final[tuple[ConditionType, ...]] = ("StorageProvisioned", "Degraded")


@dataclass(frozen=True)
class StatusWrite:
    """A status to write now (`status`), or later (`again_seconds`), or neither."""

    status: PoolStatus | None
    again_seconds: float | None = None


def build_status(
    facts: Facts,
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
        if {member.pod for member in now_members} == {member.pod for member in previous.members}:
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


def _as_before(verdicts: dict[ConditionType, Verdict], previous: PoolStatus) -> dict[ConditionType, Verdict]:
    """The conditions that sidecars decide, as they stand; where this pool's specification decides otherwise it does."""
    kept: dict[ConditionType, Verdict] = {}
    for condition in previous.conditions:
        if condition.type in SAID_BY_SIDECARS and verdicts[condition.type][1] != Reason.DRAM_ONLY:
            kept[condition.type] = (condition.status, condition.reason, condition.message)
    return kept


def count_pods(facts: Facts) -> PodCounts:
    """Count the labelled pods that are neither finished nor leaving."""
    injected = facts.injected
    return PodCounts(
        labelled=len(facts.pods),
        injected=len(injected),
        ready=sum(pod.ready for pod in injected),
        outdated=sum(bool(facts.revision) and pod.revision != facts.revision for pod in injected),
        skipped=len(facts.skipped),
    )


def decide_write(previous: PoolStatus, current: PoolStatus, facts: Facts) -> StatusWrite:
    """Fast facts at once, slow facts at the pace of tiers.py, nothing where nothing differs."""
    if _fast(previous) != _fast(current):
        return StatusWrite(current)
    wait_seconds = seconds_until_write(previous, current, facts.now)
    if wait_seconds is None:
        return StatusWrite(None)
    return StatusWrite(current) if wait_seconds == 0 else StatusWrite(None, wait_seconds)


def build_status_manifest(metadata: Metadata, status: PoolStatus) -> Manifest:
    """What is applied to the status subresource. The uid makes it miss a pool of the same name that came later."""
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {"name": metadata.name, "namespace": metadata.namespace, "uid": metadata.uid},
        "status": status.model_dump(mode="json", by_alias=True, exclude_none=True),
    }


def _fast(status: PoolStatus) -> PoolStatus:
    conditions = tuple(sorted(status.conditions, key=lambda c: c.type))
    return status.model_copy(update={"tiers": (), "hit": None, "conditions": conditions})


def _build_member(member: MemberState) -> Member:
    pod = member.pod
    return Member(
        pod=pod.name,
        node=pod.node or None,
        revision=pod.revision or None,
        ready=pod.ready,
        reason=member.reason or None,
    )
