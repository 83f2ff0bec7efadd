"""A cluster of kind, where docker or podman runs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from tests.cluster import binaries
from tests.cluster.commands import CommandError, run
from tests.cluster.load_record import LoadRecord
from tests.cluster.progress import say, step
from tests.cluster.settings import KUBERNETES_VERSION, Settings

CLUSTER_NAME: Final = "spillway"
_NODE_IMAGE: Final = f"kindest/node:v{KUBERNETES_VERSION}"


def load_into_kind(engine: str, cluster: str, image: str) -> None:
    """Bring an image of the container engine to kind's nodes."""
    archive = Path(os.environ.get("TMPDIR", "/tmp"), f"spillway-image-{os.getpid()}.tar")
    try:
        run(engine, "save", "-o", archive, image)
        run("kind", "load", "image-archive", archive, "--name", cluster, environment=_environment(engine))
    finally:
        archive.unlink(missing_ok=True)


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
        load_into_kind(self._engine, CLUSTER_NAME, name)
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
        binaries.ensure(self._settings, binaries.CLIENTS)
        if self.is_up():
            say("the kind cluster is up")
            return
        self._record.clear()
        self.kubeconfig().parent.mkdir(parents=True, exist_ok=True)
        with step(f"kind create cluster ({_NODE_IMAGE})"):
            run(
                "kind", "create", "cluster", "--name", CLUSTER_NAME, "--image", _NODE_IMAGE, "--wait", "180s",
                "--kubeconfig", self.kubeconfig(), environment=_environment(self._engine),
            )  # fmt: skip

    def down(self) -> None:
        with step("kind delete cluster"):
            run(
                "kind", "delete", "cluster", "--name", CLUSTER_NAME, "--kubeconfig", self.kubeconfig(),
                environment=_environment(self._engine),
            )  # fmt: skip
        self._record.clear()
        self.kubeconfig().unlink(missing_ok=True)
