"""A pool on its way out: clean the nodes that hold its data, say how far that is, then let it go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import structlog

from spillway_operator.api import DiskStatus, KVCachePool, PoolStatus, Reason, find_host_path_fault
from spillway_operator.api.pool import Metadata
from spillway_operator.api.status import ConditionType
from spillway_operator.controller.client import POOLS, ApiServer, FieldManager
from spillway_operator.controller.conditions import Verdict, stamp_conditions
from spillway_operator.controller.disk import (
    FINALIZER,
    Cleaning,
    DiskCleaner,
    NodeOutcome,
    build_finalizer_manifest,
    decide_disk_nodes,
    host_path_of,
    is_abandoned,
)
from spillway_operator.controller.events import Subject, post_once
from spillway_operator.controller.observed import Observed, PodView
from spillway_operator.controller.settings import OperatorSettings
from spillway_operator.controller.status import build_status_manifest
from spillway_operator.resources import DiskCleanup

LOOK_AGAIN_SECONDS = 1.0
LOOK_AGAIN_FAILED_SECONDS = 30.0

log = structlog.get_logger()


@dataclass(frozen=True)
class PoolDeletion:
    """Advances the deletion of pools that carry our finalizer. Pods that still run are not touched."""

    api: ApiServer
    observed: Observed
    settings: OperatorSettings
    cleaner: DiskCleaner

    async def advance(self, metadata: Metadata, pool: KVCachePool | None, pods: Sequence[PodView]) -> float | None:
        """One step; returns the seconds until the next, None once there is nothing left to do."""
        if FINALIZER not in metadata.finalizers:
            return None
        nodes = self._remaining_nodes(pool, pods)
        if is_abandoned(metadata) or (pool is not None and not nodes):
            await self._let_go(metadata, nodes)
            return None
        outcomes = await self._clean(metadata, pool, nodes)
        left = [outcome for outcome in outcomes if outcome.state is not Cleaning.DONE]
        if not left:
            await self._let_go(metadata, [])
            return None
        failed = [outcome for outcome in left if outcome.state is Cleaning.FAILED]
        await self._report(metadata, pool, left, failed)
        return LOOK_AGAIN_FAILED_SECONDS if len(failed) == len(left) else LOOK_AGAIN_SECONDS

    def _remaining_nodes(self, pool: KVCachePool | None, pods: Sequence[PodView]) -> list[str]:
        if pool is None:
            return []
        progressing = pool.status.condition("Progressing")
        if progressing is not None and progressing.reason in (Reason.DISK_CLEANUP_RUNNING, Reason.DISK_ORPHANS):
            # Under way: what is left stands in the status. Pods that go on must not bring their node back.
            return list(pool.status.disk.nodes) if pool.status.disk else []
        return decide_disk_nodes(pool, pods)

    async def _clean(self, metadata: Metadata, pool: KVCachePool | None, nodes: list[str]) -> list[NodeOutcome]:
        path = host_path_of(pool)
        if pool is None:
            return [NodeOutcome("", Cleaning.FAILED, "the stored specification cannot be read, so its path is unknown")]
        if path is None:
            message = "the pool no longer uses hostPath, so the path of its data is unknown"
            return [NodeOutcome(node, Cleaning.FAILED, message) for node in nodes]
        if (fault := find_host_path_fault(pool, self.settings.allowed)) is not None:
            return [NodeOutcome(node, Cleaning.FAILED, fault.message) for node in nodes]
        return [
            await self.cleaner.clean(DiskCleanup(metadata.namespace, metadata.name, metadata.uid, path, node))
            for node in nodes
        ]

    async def _let_go(self, metadata: Metadata, abandoned: list[str]) -> None:
        for node in abandoned:
            await self.cleaner.drop(metadata.uid, node)
        manifest = build_finalizer_manifest(metadata, present=False)
        await self.api.apply(manifest, POOLS, FieldManager.FINALIZER)
        log.info("pool let go", namespace=metadata.namespace, pool=metadata.name, abandoned_nodes=abandoned)

    async def _report(
        self, metadata: Metadata, pool: KVCachePool | None, left: list[NodeOutcome], failed: list[NodeOutcome]
    ) -> None:
        previous = pool.status if pool is not None else PoolStatus()
        nodes = tuple(sorted(outcome.node for outcome in left if outcome.node))
        status = previous.model_copy(update={
            "observed_generation": metadata.generation,
            "conditions": stamp_conditions(
                _verdicts(left, failed), previous.conditions, metadata.generation, datetime.now(UTC)
            ),
            "disk": DiskStatus(nodes=nodes) if nodes else None,
        })  # fmt: skip
        if failed:
            subject = Subject(POOLS.api_version, POOLS.kind, metadata.namespace, metadata.name, metadata.uid)
            await post_once(self.api, subject, Reason.DISK_ORPHANS, _describe(failed))
        if status != previous:
            manifest = build_status_manifest(metadata, status)
            answer = await self.api.apply(manifest, POOLS, FieldManager.STATUS, subresource="status")
            self.observed.put_pool(answer)


def _verdicts(left: list[NodeOutcome], failed: list[NodeOutcome]) -> dict[ConditionType, Verdict]:
    names = ", ".join(sorted(outcome.node for outcome in left if outcome.node))
    progressing: Verdict = ("True", Reason.DISK_CLEANUP_RUNNING, f"removing the pool's folder on {names}")
    degraded: Verdict = ("False", Reason.NO_FAULTS, "no node refused the cleanup")
    if failed:
        degraded = ("True", Reason.DISK_ORPHANS, _describe(failed))
    if len(failed) == len(left):
        progressing = ("True", Reason.DISK_ORPHANS, "the cleanup is tried again every 5 minutes")
    ready: Verdict = ("False", Reason.DISK_CLEANUP_RUNNING, "the pool is being deleted")
    injection: Verdict = ("False", Reason.DISK_CLEANUP_RUNNING, "the pool is being deleted")
    return {"Ready": ready, "Progressing": progressing, "Degraded": degraded, "InjectionReady": injection}


def _describe(failed: list[NodeOutcome]) -> str:
    first = failed[0]
    where = f"node {first.node}: " if first.node else ""
    return (
        f"{len(failed)} nodes keep data of this pool ({where}{first.message}); free the path, or annotate the pool "
        "spillway.dev/abandon-disk=true to delete it without"
    )[:2000]
