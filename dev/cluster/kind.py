"""A cluster of kind, where docker or podman runs. kind itself is compiled as the other tools are: its version decides the node image."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any, Final

from dev.cluster import binaries
from dev.cluster.commands import CommandError, run
from dev.cluster.instance import Instance
from dev.cluster.load_record import LoadRecord
from dev.cluster.progress import say, step
from dev.cluster.provider import become_root
from dev.cluster.settings import Settings


def load_into_kind(settings: Settings, engine: str, cluster: str, image: str) -> None:
    """Bring an image of the container engine to kind's nodes."""
    archive = Path(os.environ.get("TMPDIR", "/tmp"), f"spillway-image-{os.getpid()}.tar")
    try:
        run(engine, "save", "-o", archive, image)
        kind = binaries.tool(settings, binaries.KIND)
        run(kind, "load", "image-archive", archive, "--name", cluster, environment=_environment(engine))
    finally:
        archive.unlink(missing_ok=True)


def configuration(instance: Instance) -> dict[str, Any]:
    """One node that shares one folder with this machine: the end-to-end looks at pools' files and damages them."""
    mount = {"hostPath": str(instance.folder), "containerPath": str(instance.folder)}
    node = {"role": "control-plane", "extraMounts": [mount]}
    return {"kind": "Cluster", "apiVersion": "kind.x-k8s.io/v1alpha4", "nodes": [node]}


def _environment(engine: str) -> dict[str, str]:
    return {"KIND_EXPERIMENTAL_PROVIDER": engine}


class KindCluster:
    """One node, in a kubeconfig of its own: the user's is not touched."""

    name: Final = "kind"
    is_ours: Final = True

    def __init__(self, settings: Settings, instance: Instance, engine: str) -> None:
        self._settings = settings
        self._instance = instance
        self._cluster = f"spillway-{instance.name}"
        self._engine = engine
        self._state = settings.state(instance)
        self._record = LoadRecord(self._state / "kind-images.json")

    def kubeconfig(self) -> Path:
        return self._state / "kind-kubeconfig"

    def builder(self) -> str:
        return self._engine

    def image_reference(self, name: str) -> str:
        return name

    def loaded_images(self) -> dict[str, str]:
        return self._record.read()

    def load(self, name: str, content_hash: str) -> None:
        load_into_kind(self._settings, self._engine, self._cluster, name)
        self._record.add(name, content_hash)

    def is_up(self) -> bool:
        if not self.kubeconfig().exists():
            return False
        kubectl = binaries.KUBECTL.path(self._settings)
        try:
            ready = run(kubectl, "--kubeconfig", self.kubeconfig(), "get", "--raw", "/readyz", timeout_seconds=5)
        except (CommandError, FileNotFoundError):
            return False
        return ready == "ok"

    def up(self) -> None:
        binaries.ensure(self._settings, (*binaries.CLIENTS, binaries.KIND))
        if self.is_up():
            say("the kind cluster is up")
            return
        self._record.clear()
        self.kubeconfig().parent.mkdir(parents=True, exist_ok=True)
        with step("kind create cluster"):
            self._kind(
                "create", "cluster", "--name", self._cluster, "--config", "-", "--wait", "180s",
                "--kubeconfig", self.kubeconfig(), stdin=json.dumps(configuration(self._instance)),
            )  # fmt: skip

    def down(self) -> None:
        with step("kind delete cluster"):
            self._kind("delete", "cluster", "--name", self._cluster, "--kubeconfig", self.kubeconfig())
        self._record.clear()
        self.kubeconfig().unlink(missing_ok=True)
        self._remove_folder()

    def _remove_folder(self) -> None:
        """The node's root made it on this machine, so only root may remove it."""
        folder = self._instance.folder
        if folder.exists():
            become_root()
            shutil.rmtree(folder)

    def _kind(self, *arguments: str | Path, stdin: str | None = None) -> None:
        kind = binaries.tool(self._settings, binaries.KIND)
        run(kind, *arguments, environment=_environment(self._engine), stdin=stdin)
