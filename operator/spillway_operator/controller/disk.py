"""HostPath data outlives its pods: which nodes hold it, and how it goes when the pool does.

While the pool lives, every node that an injected pod was bound to is recorded in status.disk.nodes, under a finalizer.
When the pool is deleted and its last pod has ended, one cleanup pod per node removes the pool's folder. A node that is
gone from the cluster is dropped. A node that cannot be cleaned is tried again every 5 minutes and stays named, until it
works or somebody annotates spillway.dev/abandon-disk.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum, auto

from spillway_operator.api import KVCachePool, PoolStatus
from spillway_operator.api.names import ABANDON_DISK_ANNOTATION, API_VERSION, KIND
from spillway_operator.api.pool import Metadata
from spillway_operator.cleanup import ABSENT
from spillway_operator.controller.observed import PodView
from spillway_operator.controller.settings import OperatorSettings
from spillway_operator.kube.client import ApiServer
from spillway_operator.kube.errors import ApiError, Conflict
from spillway_operator.kube.resources import NODES, PODS, Manifest
from spillway_operator.resources import DiskCleanup, build_cleanup_pod, cleanup_pod_name
from spillway_operator.resources.cleanup_pod import CLEANUP_LABEL, DEADLINE_SECONDS

FINALIZER = "spillway.dev/disk-cleanup"
RETRY_AFTER = timedelta(minutes=5)
STARTS_WITHIN = timedelta(minutes=1)
# The kubelet ends the pod at its deadline, and nobody else does: one that is there much later has no kubelet.
ENDS_WITHIN = timedelta(seconds=DEADLINE_SECONDS) + timedelta(minutes=1)


class Cleaning(Enum):
    """How far one node is."""

    DONE = auto()
    ABSENT = auto()
    """Done, and there was nothing to remove."""
    RUNNING = auto()
    FAILED = auto()


@dataclass(frozen=True)
class NodeOutcome:
    """One node's state; `message` says what a person should know of it: why it failed, what was absent.

    `error`: the look failed, so that nothing is known but that the node is not done.
    """

    node: str
    state: Cleaning
    message: str = ""
    error: ApiError | None = None


def host_path_of(pool: KVCachePool | None) -> str | None:
    """The folder on the nodes that the pool uses now, if it uses one."""
    if pool is None or pool.spec.tiers.nvme is None or pool.spec.tiers.nvme.volume.host_path is None:
        return None
    return pool.spec.tiers.nvme.volume.host_path.path


def decide_disk_nodes(pool: KVCachePool, injected: Iterable[PodView]) -> list[str]:
    """Nodes that hold data of a living pool: those recorded and, if it uses hostPath, those of the pods injected for it."""
    return add_nodes(pool.status, injected if host_path_of(pool) is not None else ())


def add_nodes(status: PoolStatus, pods: Iterable[PodView]) -> list[str]:
    """The nodes that the status records and those that `pods` are bound to, by name."""
    recorded = status.disk.nodes if status.disk else ()
    return sorted({*recorded, *(pod.node for pod in pods if pod.node)})


def wants_finalizer(pool: KVCachePool, nodes: Iterable[str]) -> bool:
    """Whether the pool must not vanish before its disks are clean."""
    return host_path_of(pool) is not None or bool(list(nodes))


def is_abandoned(metadata: Metadata) -> bool:
    """Whether a person said to delete the pool without its disks."""
    return metadata.annotations.get(ABANDON_DISK_ANNOTATION) == "true"


def build_finalizer_manifest(metadata: Metadata, *, present: bool) -> Manifest:
    """What is applied to set or drop our finalizer. The uid keeps server-side apply from creating a pool."""
    manifest: Manifest = {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {"name": metadata.name, "namespace": metadata.namespace, "uid": metadata.uid},
    }
    if present:
        manifest["metadata"]["finalizers"] = [FINALIZER]
    return manifest


@dataclass(frozen=True)
class JudgedPod:
    """What a cleanup pod's state says of its node, and whether it is time for another attempt."""

    outcome: NodeOutcome
    is_retried: bool = False


def judge_cleanup_pod(pod: Manifest, cleanup: DiskCleanup, now: datetime) -> JudgedPod:
    """Read one cleanup pod. One that is leaving was dropped, because a pod of the pool outlived it: its word is void."""
    phase = (pod.get("status") or {}).get("phase")
    is_leaving = pod["metadata"].get("deletionTimestamp") is not None
    if phase == "Succeeded" and not is_leaving:
        return JudgedPod(_success_of(pod, cleanup))
    age = now - _created_at(pod)
    if age > ENDS_WITHIN and (is_leaving or phase != "Failed"):
        name = pod["metadata"]["name"]
        return _failed(cleanup, f"the cleanup pod {name} does not end; does the node's kubelet answer?")
    if phase == "Failed":
        return _failed(cleanup, _failure_of(pod), is_retried=age > RETRY_AFTER)
    if phase == "Pending" and age > STARTS_WITHIN:
        # The kubelet goes on trying. It tells why only in Events, which the operator does not read.
        name = pod["metadata"]["name"]
        return _failed(cleanup, f"the cleanup pod {name} does not start; is the folder there, its disk mounted?")
    return JudgedPod(NodeOutcome(cleanup.node, Cleaning.RUNNING))


def _failed(cleanup: DiskCleanup, reason: str, *, is_retried: bool = False) -> JudgedPod:
    return JudgedPod(NodeOutcome(cleanup.node, Cleaning.FAILED, f"{cleanup.host_path}: {reason}"), is_retried)


class DiskCleaner:
    """Runs the cleanup pods."""

    def __init__(self, api: ApiServer, settings: OperatorSettings) -> None:
        self._api = api
        self._settings = settings

    async def clean(self, cleanup: DiskCleanup) -> NodeOutcome:
        """Bring one node one step further: start its pod, look at it, or make room for another attempt.

        A pod that succeeded stays until `drop`: it is what a second look at the node goes by.
        """
        name, namespace = cleanup_pod_name(cleanup.pool_uid, cleanup.node), self._settings.namespace
        if await self._api.get(NODES, cleanup.node) is None:
            return NodeOutcome(cleanup.node, Cleaning.DONE)
        pod = await self._api.get(PODS, name, namespace)
        if pod is None:
            return await self._start(cleanup)
        judged = judge_cleanup_pod(pod, cleanup, datetime.now(UTC))
        if judged.is_retried:
            await self._api.delete(PODS, name, namespace)
        return judged.outcome

    async def drop(self, pool_uid: str, node: str) -> None:
        """Remove the pod of a cleanup that nobody waits for any more."""
        await self._api.delete(PODS, cleanup_pod_name(pool_uid, node), self._settings.namespace)

    async def drop_all(self, pool_uid: str) -> None:
        """Remove every cleanup pod of the pool, also those of nodes that nobody remembers."""
        namespace = self._settings.namespace
        for pod in await self._api.list(PODS, namespace, label_selector=f"{CLEANUP_LABEL}={pool_uid}"):
            await self._api.delete(PODS, pod["metadata"]["name"], namespace)

    async def _start(self, cleanup: DiskCleanup) -> NodeOutcome:
        manifest = build_cleanup_pod(
            cleanup,
            release_namespace=self._settings.namespace,
            image=self._settings.control_image,
            pull_policy=self._settings.control_pull_policy,
        )
        with suppress(Conflict):  # the pod of an earlier look is still there, or just leaving
            await self._api.create(manifest, PODS)
        return NodeOutcome(cleanup.node, Cleaning.RUNNING)


def _created_at(pod: Manifest) -> datetime:
    return datetime.fromisoformat(pod["metadata"]["creationTimestamp"])


def _success_of(pod: Manifest, cleanup: DiskCleanup) -> NodeOutcome:
    if _termination_message(pod) != ABSENT:
        return NodeOutcome(cleanup.node, Cleaning.DONE)
    message = (
        f"{cleanup.folder} does not exist: if its disk is not mounted there, the pool's data is still on that disk"
    )
    return NodeOutcome(cleanup.node, Cleaning.ABSENT, message)


def _failure_of(pod: Manifest) -> str:
    status = pod.get("status") or {}
    said = _termination_message(pod) or status.get("message") or status.get("reason") or "the cleanup pod failed"
    return str(said)[:500]


def _termination_message(pod: Manifest) -> str:
    for container in (pod.get("status") or {}).get("containerStatuses") or []:
        terminated = (container.get("state") or {}).get("terminated") or {}
        if terminated.get("message"):
            return str(terminated["message"]).strip()
    return ""
