"""One pool, its pods and the controller's reconcile over an API server in memory."""

from __future__ import annotations

from typing import Any

from controller_builders import host_path_spec, make_pod_body, make_pool_body
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from memory_api import MemoryApi
from spillway_operator.api import PoolStatus
from spillway_operator.controller.controller import Controller
from spillway_operator.controller.disk import FINALIZER
from spillway_operator.controller.observed import PoolKey
from spillway_operator.controller.settings import OperatorSettings
from spillway_operator.controller.status_keys import StatusSigner
from spillway_operator.kube.resources import NODES, PODS, POOLS, Manifest, Resource
from spillway_operator.resources.cleanup_pod import CLEANUP_LABEL

CHAT = PoolKey("team-a", "chat")
NODE_NAMES = ("node-1", "node-2", "node-3")
SETTINGS = OperatorSettings(
    namespace="spillway-system",
    sidecar_image="sidecar:1",
    control_image="control:1",
    host_paths=("/mnt/nvme0",),
)


class Rig:
    """The pool `chat` on hostPath and what the operator makes of it. Each `reconcile` sees what the API server holds."""

    def __init__(self, *, nodes: tuple[str, ...] = (), spec: Manifest | None = None, **metadata: Any) -> None:
        pool = make_pool_body(
            spec=spec or host_path_spec(),
            status={"disk": {"nodes": list(nodes)}},
            metadata={"finalizers": [FINALIZER], **metadata},
        )
        self.api = MemoryApi(pool)
        for name in NODE_NAMES:
            self.api.put(NODES, {"metadata": {"name": name}})
        self.controller = Controller(self.api, SETTINGS, StatusSigner(Ed25519PrivateKey.generate()))

    def see_pod(self, name: str, **overrides: Any) -> None:
        self.controller.see_pod({"type": "MODIFIED", "object": make_pod_body(name, **overrides)})

    def lose_pod(self, name: str) -> None:
        self.controller.see_pod({"type": "DELETED", "object": make_pod_body(name)})

    def refuse(self, *what: tuple[str, Resource, str]) -> None:
        """From now on the API server fails at these, (verb, resource, name), and at nothing else."""
        self.api.refused = {(verb, resource.kind, name) for verb, resource, name in what}

    async def reconcile(self) -> None:
        self.controller.see_pool({"type": "MODIFIED", "object": self.pool})
        await self.controller._reconciler.reconcile(CHAT)

    @property
    def pool(self) -> Manifest:
        return self.api.stored[POOLS.kind, "chat"]

    @property
    def status(self) -> PoolStatus:
        return PoolStatus.model_validate(self.pool["status"])

    @property
    def is_held(self) -> bool:
        """Whether our finalizer keeps the pool."""
        return FINALIZER in self.pool["metadata"]["finalizers"]

    @property
    def recorded_nodes(self) -> tuple[str, ...]:
        return self.status.disk.nodes if self.status.disk else ()

    def progress(self) -> tuple[str, str]:
        condition = self.status.condition("Progressing")
        assert condition is not None
        return condition.reason, condition.message

    def cleanup_pods(self) -> dict[str, Manifest]:
        """The cleanup pods there are, by node."""
        return {
            pod["spec"]["nodeName"]: pod for pod in self.api.kind(PODS) if CLEANUP_LABEL in pod["metadata"]["labels"]
        }

    def end_cleanup(self, node: str, message: str = "removed") -> None:
        """Let the cleanup pod of a node succeed."""
        pod = self.cleanup_pods()[node]
        pod["status"] = {
            "phase": "Succeeded", "containerStatuses": [{"state": {"terminated": {"message": message}}}],
        }  # fmt: skip
        self.api.put(PODS, pod)
