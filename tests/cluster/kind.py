"""A cluster of kind, where docker or podman runs. kind itself is compiled as the other tools are: its version decides the node image."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Final

from tests.cluster import binaries
from tests.cluster.commands import CommandError, run
from tests.cluster.load_record import LoadRecord
from tests.cluster.progress import say, step
from tests.cluster.settings import Settings

CLUSTER_NAME: Final = "spillway"
# The end-to-end looks at a pool's files and damages them: the node has to see the folder that this machine sees.
_SHARED_FOLDER: Final = "/var/lib/spillway-e2e"


def load_into_kind(settings: Settings, engine: str, cluster: str, image: str) -> None:
    """Bring an image of the container engine to kind's nodes."""
    archive = Path(os.environ.get("TMPDIR", "/tmp"), f"spillway-image-{os.getpid()}.tar")
    try:
        run(engine, "save", "-o", archive, image)
        kind = binaries.tool(settings, binaries.KIND)
        run(kind, "load", "image-archive", archive, "--name", cluster, environment=_environment(engine))
    finally:
        archive.unlink(missing_ok=True)


def configuration() -> dict[str, Any]:
    """One node that shares one folder with this machine."""
    mount = {"hostPath": _SHARED_FOLDER, "containerPath": _SHARED_FOLDER}
    node = {"role": "control-plane", "extraMounts": [mount]}
    return {"kind": "Cluster", "apiVersion": "kind.x-k8s.io/v1alpha4", "nodes": [node]}


def _environment(engine: str) -> dict[str, str]:
    return {"KIND_EXPERIMENTAL_PROVIDER": engine}


class KindCluster:
    """One node named `spillway-control-plane`, in a kubeconfig of its own: the user's is not touched."""

    name: Final = "kind"

    def __init__(self, settings: Settings, engine: str) -> None:
        self._settings = settings
        self._engine = engine
        self._record = LoadRecord(settings.state / "kind-images.json")

    def kubeconfig(self) -> Path:
        return self._settings.state / "kind-kubeconfig"

    def builder(self) -> str:
        return self._engine

    def image_reference(self, name: str) -> str:
        return name

    def loaded_images(self) -> dict[str, str]:
        return self._record.read()

    def load(self, name: str, content_hash: str) -> None:
        load_into_kind(self._settings, self._engine, CLUSTER_NAME, name)
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
                "create", "cluster", "--name", CLUSTER_NAME, "--config", "-", "--wait", "180s",
                "--kubeconfig", self.kubeconfig(), stdin=json.dumps(configuration()),
            )  # fmt: skip

    def down(self) -> None:
        with step("kind delete cluster"):
            self._kind("delete", "cluster", "--name", CLUSTER_NAME, "--kubeconfig", self.kubeconfig())
        self._record.clear()
        self.kubeconfig().unlink(missing_ok=True)

    def _kind(self, *arguments: str | Path, stdin: str | None = None) -> None:
        kind = binaries.tool(self._settings, binaries.KIND)
        run(kind, *arguments, environment=_environment(self._engine), stdin=stdin)
