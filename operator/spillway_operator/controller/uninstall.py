"""What `helm uninstall` does before anything is removed: nothing may stay that only the operator could have let go.

A pool on hostPath carries our finalizer. Without an operator it could never be deleted, nor its namespace, nor the CRD.
So pools that are on their way out are given time to be cleaned; then the operator is stopped, because it would set the
finalizer again; then every pool is released, and what its nodes keep is said. A pool that nobody deleted stays with its
data, its pods go on, and a later installation takes all of it over again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import structlog
from spillway.config import ConfigError

from spillway_operator.api import KVCachePool, Reason, parse_pool
from spillway_operator.api.pool import Metadata
from spillway_operator.controller import certificates, status_keys
from spillway_operator.controller.disk import FINALIZER, build_finalizer_manifest, host_path_of
from spillway_operator.controller.events import Subject, post_once
from spillway_operator.controller.settings import LEASE_NAME, OPERATOR_DEPLOYMENT
from spillway_operator.kube.client import ApiServer, FieldManager
from spillway_operator.kube.errors import NotFound
from spillway_operator.kube.resources import CONFIG_MAPS, DEPLOYMENTS, LEASES, PODS, POOLS, SECRETS, Manifest
from spillway_operator.resources.cleanup_pod import CLEANUP_LABEL

LOOK_SECONDS = 1.0
# An operator ends within its grace period of 15 s; the rest is for a kubelet that is busy.
STOP_SECONDS = 45.0
_OPERATOR_PODS = "app.kubernetes.io/name=spillway,app.kubernetes.io/component=operator"

log = structlog.get_logger()


@dataclass
class Uninstallation:
    """One run. `finish_seconds` bounds the wait for pools that are being deleted; all else takes under a minute."""

    api: ApiServer
    namespace: str
    finish_seconds: float
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    said: list[str] = field(default_factory=list)

    async def run(self) -> list[str]:
        """Do it and return, line by line, what was left where. Raises ApiError where the API server refuses a step."""
        if await self._pools() is None:
            return ["there are no KVCachePools: their definition is gone"]
        await self._finish()
        await self._stop_operator()
        for pool in await self._pools() or []:
            await self._release(pool)
        await self._remove_own()
        return self.said or ["no pool was there"]

    async def _pools(self) -> list[Manifest] | None:
        """All pools; None where their kind is not served any more."""
        try:
            return await self.api.list(POOLS)
        except NotFound:
            return None

    async def _finish(self) -> None:
        """Wait for pools that are being deleted, as long as an operator works on them."""
        end = self.clock() + self.finish_seconds
        while leaving := [pool for pool in await self._pools() or [] if _is_leaving(pool)]:
            if not await self._operator_is_available():
                log.warning("no operator is available to finish deletions", pools=[_name_of(pool) for pool in leaving])
                return
            if self.clock() > end:
                log.warning("deletions do not end in time", pools=[_name_of(pool) for pool in leaving])
                return
            await self.sleep(LOOK_SECONDS)

    async def _operator_is_available(self) -> bool:
        deployment = await self.api.get(DEPLOYMENTS, OPERATOR_DEPLOYMENT, self.namespace)
        return bool(deployment and (deployment.get("status") or {}).get("availableReplicas"))

    async def _stop_operator(self) -> None:
        deployment = await self.api.get(DEPLOYMENTS, OPERATOR_DEPLOYMENT, self.namespace)
        if deployment is not None:
            metadata = {"name": OPERATOR_DEPLOYMENT, "namespace": self.namespace}
            manifest = {
                "apiVersion": DEPLOYMENTS.api_version,
                "kind": DEPLOYMENTS.kind,
                "metadata": {**metadata, "uid": deployment["metadata"]["uid"]},
                "spec": {"replicas": 0},
            }
            await self.api.apply(manifest, DEPLOYMENTS, FieldManager.UNINSTALL)
        end = self.clock() + STOP_SECONDS
        while running := await self._operator_pods():
            if self.clock() > end:
                names = [pod["metadata"]["name"] for pod in running]
                self.said.append(f"operator pods do not end and may hold pools again: {', '.join(names)}")
                return
            await self.sleep(LOOK_SECONDS)

    async def _operator_pods(self) -> list[Manifest]:
        pods = await self.api.list(PODS, self.namespace, label_selector=_OPERATOR_PODS)
        return [pod for pod in pods if (pod.get("status") or {}).get("phase") not in ("Succeeded", "Failed")]

    async def _release(self, body: Manifest) -> None:
        metadata = Metadata.model_validate(body["metadata"])
        if FINALIZER in metadata.finalizers:
            try:
                await self.api.apply(build_finalizer_manifest(metadata, present=False), POOLS, FieldManager.FINALIZER)
            except NotFound:  # its last holder let it go meanwhile
                return
        left = _describe_data(body)
        end = "is deleted" if _is_leaving(body) else "stays, without an operator"
        self.said.append(f"pool {_name_of(body)} {end}; {left or 'no data on disks of nodes'}")
        if left is not None:
            subject = Subject.pool(metadata)
            await post_once(self.api, subject, Reason.UNINSTALLED, f"Spillway was uninstalled; {left}")

    async def _remove_own(self) -> None:
        """What the operator made in the release namespace; Helm does not know of it."""
        for pod in await self.api.list(PODS, self.namespace, label_selector=CLEANUP_LABEL):
            await self.api.delete(PODS, pod["metadata"]["name"], self.namespace)
        for name in (certificates.CA_SECRET, certificates.SERVING_SECRET, status_keys.SECRET_NAME):
            await self.api.delete(SECRETS, name, self.namespace)
        await self.api.delete(CONFIG_MAPS, status_keys.CONFIG_MAP_NAME, self.namespace)
        await self.api.delete(LEASES, LEASE_NAME, self.namespace)


def _is_leaving(body: Manifest) -> bool:
    return body["metadata"].get("deletionTimestamp") is not None


def _name_of(body: Manifest) -> str:
    return f"{body['metadata']['namespace']}/{body['metadata']['name']}"


def _describe_data(body: Manifest) -> str | None:
    """Which folder is left on which nodes, None where the pool has none."""
    metadata = body["metadata"]
    nodes = ((body.get("status") or {}).get("disk") or {}).get("nodes") or []
    path = host_path_of(_read(body))
    if not nodes and path is None:
        return None
    folder = f"{(path or '<its former hostPath>').rstrip('/')}/{metadata['namespace']}/{metadata['uid']}"
    where = f"on nodes {', '.join(nodes)}" if nodes else "on the nodes where its pods ran"
    return f"its data stays in {folder} {where}"


def _read(body: Manifest) -> KVCachePool | None:
    try:
        return parse_pool(body)
    except ConfigError:
        return None
