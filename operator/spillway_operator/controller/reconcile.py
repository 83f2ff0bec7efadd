"""Reconcile one pool: observe, diff, apply, report. Level-triggered: called with a key, whatever happened to it.

What is observed is what the watches saw (observed.py) and what the sidecars reported (members.py); the API server is
asked only for what no watch covers. Nothing is written that the observation already shows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import structlog
from pydantic import ValidationError
from spillway.config import ConfigError

from spillway_operator.api import (
    Fault,
    InjectionStatus,
    KVCachePool,
    PoolStatus,
    Reason,
    find_fault,
    find_user_fault,
    parse_pool,
    sidecar_image,
)
from spillway_operator.api.pool import Metadata
from spillway_operator.controller.breaker import Failure, decide_injection, next_try_seconds
from spillway_operator.controller.breaker_events import BreakerReporter
from spillway_operator.controller.conditions import decide_conditions
from spillway_operator.controller.deletion import PoolDeletion
from spillway_operator.controller.disk import (
    FINALIZER,
    build_finalizer_manifest,
    decide_disk_nodes,
    wants_finalizer,
)
from spillway_operator.controller.facts import STALE_AFTER, PoolFacts, decide_members, next_change_seconds
from spillway_operator.controller.members import MemberReader
from spillway_operator.controller.observed import Observed, PoolKey
from spillway_operator.controller.pace import Burst
from spillway_operator.controller.settings import OperatorSettings
from spillway_operator.controller.skips import SkipReporter
from spillway_operator.controller.status import build_status, build_status_manifest, count_write, decide_write
from spillway_operator.controller.storage_classes import StorageClasses
from spillway_operator.controller.stuck_pods import StuckPods
from spillway_operator.controller.webhook_health import WebhookHealth
from spillway_operator.injection.revision import pool_revision
from spillway_operator.kube.client import ApiServer, FieldManager
from spillway_operator.kube.errors import ApiError, Conflict
from spillway_operator.kube.resources import CONFIG_MAPS, POOLS
from spillway_operator.resources import build_config_map

# Nothing tells us when a StorageClass appears, or when a ConfigMap without our label goes.
UNWATCHED_RETRY_SECONDS = 30.0

log = structlog.get_logger()


@dataclass(frozen=True)
class _Injection:
    """The breaker as it shall stand, the pods that it stands so for, and when to look again."""

    status: InjectionStatus | None
    failures: tuple[Failure, ...]
    again_seconds: float | None


@dataclass(frozen=True)
class Reconciler:
    """What a reconcile works with."""

    api: ApiServer
    observed: Observed
    members: MemberReader
    webhook: WebhookHealth
    settings: OperatorSettings
    skips: SkipReporter
    deletion: PoolDeletion
    storage_classes: StorageClasses
    stuck: StuckPods
    breaker_events: BreakerReporter
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    _bursts: dict[PoolKey, Burst] = field(default_factory=dict, init=False)
    _began_at: datetime = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_began_at", self.clock())

    async def reconcile(self, key: PoolKey) -> float | None:
        """Bring the pool of `key` to what its spec says; returns the seconds after which to look again, if any.

        Its parts fail apart: what one of them raises is raised when the others are done. Raises ApiError.
        """
        failed: list[ApiError] = []
        try:
            again_seconds = await self._advance(key, failed)
        except ApiError as error:
            failed.insert(0, error)
        try:
            await self.skips.report(pod for pod in self.observed.pods(key) if pod.live)
        except ApiError as error:
            failed.append(error)
        if failed:
            raise failed[0]
        return again_seconds

    async def _advance(self, key: PoolKey, failed: list[ApiError]) -> float | None:
        """The pool's own parts. What must not keep the status from being written goes into `failed`."""
        stored = self.observed.pool(key)
        if stored is None:
            self._forget(key)
            return None
        metadata = Metadata.model_validate(stored["metadata"])
        pool, fault = _read_pool(stored)
        previous = _read_status(stored)
        # Ended ones too: what a pod stored stays on its node's disk, also where it ended while no operator looked.
        injected = self.observed.injected_for(metadata.namespace, metadata.uid)
        if metadata.deletion_timestamp is not None:
            return await self.deletion.advance(metadata, pool, previous, injected)
        webhook_problem = await self.webhook.problem_in(metadata.namespace)
        if pool is None:
            nodes = list(previous.disk.nodes) if previous.disk else []
            return await self._report(
                key, metadata, self._facts(key, metadata, None, fault, webhook_problem), previous, nodes
            )
        nodes = decide_disk_nodes(pool, injected)
        try:
            await self._apply_finalizer(pool, nodes)
        except ApiError as error:
            failed.append(error)
        try:
            config_map_problem = await self._apply_config_map(key, pool)
        except ApiError as error:
            failed.append(error)
            config_map_problem = ""
        fault = find_fault(pool, self.settings.allowed) or self._user_fault(key)
        fault = fault or await self._storage_class_fault(pool, previous, failed)
        # No new pod gets a sidecar of a pool with a fault, so there is no revision that it would get.
        revision = "" if fault is not None else pool_revision(pool, sidecar_image(pool, self.settings.allowed))
        injection = await self._injection(key, revision, previous)
        facts = self._facts(key, metadata, pool, fault, webhook_problem, config_map_problem, injection.status, revision)
        pauses = [await self._report(key, metadata, facts, previous, nodes), injection.again_seconds]
        try:
            # After the report: who is made again must meet the open breaker.
            pauses.append(
                await self.stuck.restart(key, injection.status, injection.failures, len(facts.pods), facts.now)
            )
        except ApiError as error:
            failed.append(error)
        try:
            await self.breaker_events.report(metadata, injection.status)
        except ApiError as error:
            failed.append(error)
        if config_map_problem or (fault is not None and fault.reason is Reason.STORAGE_CLASS_NOT_FOUND):
            pauses.append(UNWATCHED_RETRY_SECONDS)
        return min((pause for pause in pauses if pause is not None), default=None)

    def _forget(self, key: PoolKey) -> None:
        self._bursts.pop(key, None)
        self.stuck.forget_pool(key)

    async def _injection(self, key: PoolKey, revision: str, previous: PoolStatus) -> _Injection:
        now = self.clock()
        pods = [pod for pod in self.observed.pods(key) if pod.live]
        failures, look_seconds = await self.stuck.find_failures(pods, now)
        status = decide_injection(previous.injection, failures, pods, revision, now)
        pauses = [pause for pause in (look_seconds, next_try_seconds(status, now)) if pause is not None]
        return _Injection(status, tuple(failures), min(pauses, default=None))

    def _facts(
        self,
        key: PoolKey,
        metadata: Metadata,
        pool: KVCachePool | None,
        fault: Fault | None,
        webhook_problem: str,
        config_map_problem: str = "",
        injection: InjectionStatus | None = None,
        revision: str = "",
    ) -> PoolFacts:
        pods = tuple(pod for pod in self.observed.pods(key) if pod.live)
        return PoolFacts(
            generation=metadata.generation,
            fault=fault,
            config_map_problem=config_map_problem,
            injection=injection,
            webhook_problem=webhook_problem,
            pods=pods,
            observations=tuple((pod, self.members.observation(pod.uid)) for pod in pods if pod.injected),
            revision=revision,
            wants_nvme=pool is not None and pool.spec.tiers.nvme is not None,
            now=(now := self.clock()),
            just_begun=now - self._began_at < STALE_AFTER,
        )

    async def _report(
        self, key: PoolKey, metadata: Metadata, facts: PoolFacts, previous: PoolStatus, nodes: list[str]
    ) -> float | None:
        members = decide_members(facts)
        status = build_status(facts, members, decide_conditions(facts, members), previous, nodes)
        burst = self._bursts.setdefault(key, Burst())
        decision = decide_write(previous, status, facts, burst)
        if decision.status is not None:
            manifest = build_status_manifest(metadata, decision.status)
            answer = await self.api.apply(manifest, POOLS, FieldManager.STATUS, subresource="status")
            count_write(previous, status, facts, burst)
            self.observed.put_pool(answer)
        pauses = [p for p in (decision.again_seconds, next_change_seconds(facts)) if p is not None]
        return min(pauses) if pauses else None

    async def _apply_finalizer(self, pool: KVCachePool, nodes: list[str]) -> None:
        wanted = wants_finalizer(pool, nodes)
        if wanted == (FINALIZER in pool.metadata.finalizers):
            return
        manifest = build_finalizer_manifest(pool.metadata, present=wanted)
        self.observed.put_pool(await self.api.apply(manifest, POOLS, FieldManager.FINALIZER))

    async def _apply_config_map(self, key: PoolKey, pool: KVCachePool) -> str:
        """Apply the live overrides; returns why not where a ConfigMap of that name is not the pool's, which is left alone."""
        wanted = build_config_map(pool)
        name = wanted["metadata"]["name"]
        seen = self.observed.config_map(key.namespace, name)
        if seen is not None and not _drifted(wanted, seen):
            return ""
        # What is watched carries our label, which anybody may set or remove: the API server knows whose it is.
        stored = await self.api.get(CONFIG_MAPS, name, key.namespace)
        taken = (
            f"ConfigMap {name!r} is not the pool's and is left alone: changes of logLevel and io.deadline do not reach "
            "running pods; rename or delete it"
        )
        if stored is not None and not _is_owned(wanted, stored):
            return taken
        try:
            # Only over our own may other managers' fields be taken back.
            applied = await self.api.apply(wanted, CONFIG_MAPS, FieldManager.CHILDREN, force=stored is not None)
        except Conflict:
            return taken  # made by somebody else since we looked
        self.observed.put_config_map(applied)
        log.info("config map applied", namespace=key.namespace, pool=key.name)
        return ""

    def _user_fault(self, key: PoolKey) -> Fault | None:
        claim = self.observed.claim(key)
        holder = None if claim is None else self.observed.user_holder(claim.user)
        held = None if holder is None else self.observed.claim(holder)
        return None if claim is None or held is None else find_user_fault(claim, [held])

    async def _storage_class_fault(
        self, pool: KVCachePool, previous: PoolStatus, failed: list[ApiError]
    ) -> Fault | None:
        nvme = pool.spec.tiers.nvme
        name = nvme.volume.ephemeral.storage_class_name if nvme and nvme.volume.ephemeral else None
        try:
            if name is None or await self.storage_classes.exists(name):
                return None
        except ApiError as error:
            failed.append(error)
            return _storage_class_fault_before(previous)
        message = (
            f"spec.tiers.nvme.volume.ephemeral.storageClassName {name!r} does not exist: create it or name another"
        )
        return Fault(Reason.STORAGE_CLASS_NOT_FOUND, message)


def _storage_class_fault_before(previous: PoolStatus) -> Fault | None:
    """What was said when it was last known."""
    said = previous.condition("ConfigValid")
    if said is None or said.reason != Reason.STORAGE_CLASS_NOT_FOUND:
        return None
    return Fault(Reason.STORAGE_CLASS_NOT_FOUND, said.message)


def _read_pool(stored: dict[str, Any]) -> tuple[KVCachePool | None, Fault | None]:
    try:
        return parse_pool(stored), None
    except ConfigError as error:
        return None, Fault(Reason.SPEC_UNREADABLE, str(error))


def _read_status(stored: dict[str, Any]) -> PoolStatus:
    try:
        return PoolStatus.model_validate(stored.get("status") or {})
    except ValidationError:
        return PoolStatus()  # an operator of another version wrote it; ours replaces it


def _is_owned(wanted: dict[str, Any], stored: dict[str, Any]) -> bool:
    uid = wanted["metadata"]["ownerReferences"][0]["uid"]
    return any(owner["uid"] == uid for owner in stored["metadata"].get("ownerReferences") or [])


def _drifted(wanted: dict[str, Any], seen: dict[str, Any]) -> bool:
    """Whether a field that we render differs; fields of others are none of our business."""
    metadata, seen_metadata = wanted["metadata"], seen["metadata"]
    labels = seen_metadata.get("labels") or {}
    return (
        wanted["data"] != {name: (seen.get("data") or {}).get(name) for name in wanted["data"]}
        or any(labels.get(name) != value for name, value in metadata["labels"].items())
        or metadata["ownerReferences"][0] not in (seen_metadata.get("ownerReferences") or [])
    )
