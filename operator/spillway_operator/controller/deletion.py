"""A pool on its way out: wait for its pods, clean the nodes that hold its data, say how far that is, then let it go.

A pod that was injected for the pool goes on with its tiers as long as it likes: nobody evicts it. But it would make the
folder on its node again, so nothing is cleaned and the finalizer stays until the last such pod has ended. If one appears
during the cleanup (the webhook saw the deletion a moment late), the wait and then the cleanup begin anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import get_args

import structlog

from spillway_operator.api import DiskStatus, KVCachePool, PoolStatus, Reason, find_host_path_fault
from spillway_operator.api.pool import Metadata
from spillway_operator.api.status import ConditionType
from spillway_operator.controller.conditions import Verdict, stamp_conditions
from spillway_operator.controller.disk import (
    FINALIZER,
    Cleaning,
    DiskCleaner,
    NodeOutcome,
    add_nodes,
    build_finalizer_manifest,
    host_path_of,
    is_abandoned,
)
from spillway_operator.controller.events import Subject, post_once
from spillway_operator.controller.observed import Observed, PodView
from spillway_operator.controller.settings import OperatorSettings
from spillway_operator.controller.status import build_status_manifest
from spillway_operator.kube.client import ApiServer, FieldManager
from spillway_operator.kube.errors import ApiError
from spillway_operator.kube.resources import POOLS
from spillway_operator.resources import DiskCleanup

LOOK_AGAIN_SECONDS = 1.0
# While pods run or every node refuses: what ends that is mostly seen by a watch, not by looking.
LOOK_AGAIN_STUCK_SECONDS = 30.0
MAX_PODS_NAMED = 3

log = structlog.get_logger()


@dataclass(frozen=True)
class PoolDeletion:
    """Advances the deletion of pools that carry our finalizer. Pods that still run are not touched."""

    api: ApiServer
    observed: Observed
    settings: OperatorSettings
    cleaner: DiskCleaner

    async def advance(
        self, metadata: Metadata, pool: KVCachePool | None, status: PoolStatus, pods: Sequence[PodView]
    ) -> float | None:
        """One step; returns the seconds until the next, None once there is nothing left to do.

        `pods` are those that were injected for the pool, ended ones too. `pool` is None where its spec is unreadable.
        """
        if FINALIZER not in metadata.finalizers:
            return None
        running = [pod for pod in pods if not pod.ended]
        nodes = _remaining_nodes(status, pods, running)
        if is_abandoned(metadata):
            await self._let_go(metadata, nodes)
            return None
        if running:
            await self._wait_for(running, metadata, status, nodes)
            return LOOK_AGAIN_STUCK_SECONDS
        if pool is not None and not nodes:
            await self._let_go(metadata, [])
            return None
        return await self._advance_cleanup(metadata, pool, status, nodes)

    async def _wait_for(self, running: list[PodView], metadata: Metadata, status: PoolStatus, nodes: list[str]) -> None:
        if _is_cleaning(status):
            await self.cleaner.drop_all(metadata.uid)
        await self._report(metadata, status, _waiting_verdicts(running), nodes)

    async def _advance_cleanup(
        self, metadata: Metadata, pool: KVCachePool | None, status: PoolStatus, nodes: list[str]
    ) -> float | None:
        outcomes = [await self._tell(metadata, outcome) for outcome in await self._clean(metadata, pool, nodes)]
        left = [outcome for outcome in outcomes if outcome.state in (Cleaning.RUNNING, Cleaning.FAILED)]
        done = [outcome for outcome in outcomes if outcome.state in (Cleaning.DONE, Cleaning.ABSENT)]
        failed = [outcome for outcome in left if outcome.state is Cleaning.FAILED]
        errors = [outcome.error for outcome in left if outcome.error is not None]
        if failed:
            try:
                await self._warn(metadata, Reason.DISK_ORPHANS, _describe(failed))
            except ApiError as error:
                errors.append(error)
        left_nodes = sorted(outcome.node for outcome in left if outcome.node)
        await self._report(metadata, status, _cleaning_verdicts(left, failed), left_nodes)
        # A spent pod outlives its node's name in the status: without it the clean node would be cleaned again, and that
        # nothing is found there would be told as a disk that is not mounted.
        for outcome in done:
            await self.cleaner.drop(metadata.uid, outcome.node)
        if errors:
            raise errors[0]
        if not left:
            await self._let_go(metadata, [])
            return None
        return LOOK_AGAIN_STUCK_SECONDS if len(failed) == len(left) else LOOK_AGAIN_SECONDS

    async def _clean(self, metadata: Metadata, pool: KVCachePool | None, nodes: list[str]) -> list[NodeOutcome]:
        path = host_path_of(pool)
        if pool is None:
            message = "the stored specification cannot be read, so its path is unknown"
            return [NodeOutcome(node, Cleaning.FAILED, message) for node in nodes or [""]]
        if path is None:
            message = "the pool no longer uses hostPath, so the path of its data is unknown"
            return [NodeOutcome(node, Cleaning.FAILED, message) for node in nodes]
        if (fault := find_host_path_fault(pool, self.settings.allowed)) is not None:
            return [NodeOutcome(node, Cleaning.FAILED, fault.message) for node in nodes]
        return [
            await self._clean_node(DiskCleanup(metadata.namespace, metadata.name, metadata.uid, path, node))
            for node in nodes
        ]

    async def _tell(self, metadata: Metadata, outcome: NodeOutcome) -> NodeOutcome:
        """Warn of a node where nothing was found. One of which that cannot be said counts as not done yet."""
        if outcome.state is not Cleaning.ABSENT:
            return outcome
        log.warning("nothing to clean", namespace=metadata.namespace, pool=metadata.name, node=outcome.node,
                    reason=outcome.message)  # fmt: skip
        try:
            await self._warn(metadata, Reason.DISK_FOLDER_ABSENT, f"node {outcome.node}: {outcome.message}")
        except ApiError as error:
            return replace(outcome, state=Cleaning.RUNNING, error=error)
        return outcome

    async def _clean_node(self, cleanup: DiskCleanup) -> NodeOutcome:
        try:
            return await self.cleaner.clean(cleanup)
        except ApiError as error:  # raised again once the other nodes' outcomes are in the status
            return NodeOutcome(cleanup.node, Cleaning.RUNNING, error=error)

    async def _let_go(self, metadata: Metadata, abandoned: list[str]) -> None:
        await self.cleaner.drop_all(metadata.uid)  # also what an operator that died left behind
        manifest = build_finalizer_manifest(metadata, present=False)
        await self.api.apply(manifest, POOLS, FieldManager.FINALIZER)
        log.info("pool let go", namespace=metadata.namespace, pool=metadata.name, abandoned_nodes=abandoned)

    async def _warn(self, metadata: Metadata, reason: Reason, message: str) -> None:
        subject = Subject.pool(metadata)
        await post_once(self.api, subject, reason, message)

    async def _report(
        self, metadata: Metadata, previous: PoolStatus, verdicts: dict[ConditionType, Verdict], nodes: list[str]
    ) -> None:
        stamped = stamp_conditions(verdicts, previous.conditions, metadata.generation, datetime.now(UTC))
        # Of what deletion says nothing the last word stands, with the generation that it was said of.
        kept = [condition for condition in previous.conditions if condition.type not in verdicts]
        order = get_args(ConditionType)
        status = previous.model_copy(update={
            "observed_generation": metadata.generation,
            "conditions": tuple(sorted((*stamped, *kept), key=lambda condition: order.index(condition.type))),
            "disk": DiskStatus(nodes=tuple(nodes)) if nodes else None,
        })  # fmt: skip
        if status != previous:
            manifest = build_status_manifest(metadata, status)
            answer = await self.api.apply(manifest, POOLS, FieldManager.STATUS, subresource="status")
            self.observed.put_pool(answer)


def _is_cleaning(status: PoolStatus) -> bool:
    progressing = status.condition("Progressing")
    return progressing is not None and progressing.reason in (Reason.DISK_CLEANUP_RUNNING, Reason.DISK_ORPHANS)


def _remaining_nodes(status: PoolStatus, pods: Sequence[PodView], running: Sequence[PodView]) -> list[str]:
    # Once the cleanup is under way the status holds what is left: a pod that had ended must not bring its node back.
    return add_nodes(status, running if _is_cleaning(status) else pods)


def _waiting_verdicts(running: Sequence[PodView]) -> dict[ConditionType, Verdict]:
    listed = ", ".join(pod.name for pod in running[:MAX_PODS_NAMED])
    if len(running) > MAX_PODS_NAMED:
        listed += f" and {len(running) - MAX_PODS_NAMED} more"
    message = (
        f"waits for the end of pods that may still write to their nodes' disks ({len(running)}: {listed}); delete them, "
        "or annotate the pool spillway.dev/abandon-disk=true to delete it without cleaning the disks"
    )
    return _verdicts(Reason.DISK_IN_USE, message, ("False", Reason.NO_FAULTS, "the cleanup has not begun"))


def _cleaning_verdicts(left: list[NodeOutcome], failed: list[NodeOutcome]) -> dict[ConditionType, Verdict]:
    degraded: Verdict = ("False", Reason.NO_FAULTS, "no node refused the cleanup")
    if failed:
        degraded = ("True", Reason.DISK_ORPHANS, _describe(failed))
    if not left:
        return _verdicts(Reason.DISK_CLEANUP_RUNNING, "the pool's folder is removed everywhere", degraded)
    if len(failed) == len(left):
        return _verdicts(Reason.DISK_ORPHANS, "the cleanup is tried again every 5 minutes", degraded)
    names = ", ".join(sorted(outcome.node for outcome in left if outcome.node))
    return _verdicts(Reason.DISK_CLEANUP_RUNNING, f"removing the pool's folder on {names}", degraded)


def _verdicts(progress: Reason, message: str, degraded: Verdict) -> dict[ConditionType, Verdict]:
    leaving: Verdict = ("False", progress, "the pool is being deleted")
    return {
        "Ready": leaving,
        "Progressing": ("True", progress, message),
        "Degraded": degraded,
        "InjectionReady": leaving,
    }


def _describe(failed: list[NodeOutcome]) -> str:
    first = failed[0]
    where = f"node {first.node}: " if first.node else ""
    return (
        f"{len(failed)} nodes keep data of this pool ({where}{first.message}); free the path, or annotate the pool "
        "spillway.dev/abandon-disk=true to delete it without"
    )[:2000]
