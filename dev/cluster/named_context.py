"""The cluster that the user names in SPILLWAY_CONTEXT: used, never made or ended."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

import yaml

from dev.cluster import binaries
from dev.cluster.commands import ClusterError, CommandError, run
from dev.cluster.embedded import packages
from dev.cluster.instance import Instance
from dev.cluster.kind import load_into_kind
from dev.cluster.load_record import LoadRecord
from dev.cluster.progress import say
from dev.cluster.provider import become_root, running_engine
from dev.cluster.settings import Settings


class NamedContext:
    """Images reach it through kind, minikube or k3d where the context's name says so, else through SPILLWAY_REGISTRY."""

    name: Final = "named context"
    is_ours: Final = False

    def __init__(self, settings: Settings, instance: Instance) -> None:
        self._settings = settings
        self._state = settings.state(instance)
        self._context = settings.context
        self._engine = running_engine() or "buildah"
        self._record = LoadRecord(self._state / f"context-{self._context.replace('/', '_')}-images.json")
        self._check_loadable()

    def kubeconfig(self) -> Path:
        return self._state / "context-kubeconfig"

    def builder(self) -> str:
        return self._engine

    def image_reference(self, name: str) -> str:
        if not self._settings.registry:
            return name
        return f"{self._settings.registry}/{name.removeprefix('localhost/')}"

    def loaded_images(self) -> dict[str, str]:
        return self._record.read()

    def load(self, name: str, content_hash: str) -> None:
        if self._settings.registry:
            self._push(name)
        elif self._context.startswith("kind-"):
            load_into_kind(self._settings, self._engine, self._context.removeprefix("kind-"), name)
        elif self._context.startswith("k3d-"):
            run("k3d", "image", "import", name, "-c", self._context.removeprefix("k3d-"))
        else:
            run("minikube", "-p", self._context, "image", "load", name)
        self._record.add(self.image_reference(name), content_hash)

    def is_up(self) -> bool:
        if not self.kubeconfig().exists():
            return False
        kubectl = binaries.KUBECTL.path(self._settings)
        try:
            ready = run(kubectl, "--kubeconfig", self.kubeconfig(), "get", "--raw", "/readyz", timeout_seconds=10)
        except (CommandError, FileNotFoundError):
            return False
        return ready == "ok"

    def up(self) -> None:
        if self._engine == "buildah":
            become_root()
            packages.install_missing(packages.IMAGES)
        binaries.ensure(self._settings, binaries.CLIENTS)
        self.kubeconfig().parent.mkdir(parents=True, exist_ok=True)
        # A file with this context alone: nothing we start can slip to another cluster of the user's.
        kubectl = binaries.KUBECTL.path(self._settings)
        chosen = run(kubectl, "config", "view", "--minify", "--flatten", "--context", self._context)
        self.kubeconfig().touch(mode=0o600)
        self.kubeconfig().write_text(yaml.safe_dump({**yaml.safe_load(chosen), "current-context": self._context}))
        if not self.is_up():
            raise ClusterError(f"the cluster of SPILLWAY_CONTEXT={self._context} does not answer as ready")
        say(f"using the cluster of context {self._context}")

    def down(self) -> None:
        say(f"the cluster of context {self._context} is yours and stays")
        self._record.clear()
        self.kubeconfig().unlink(missing_ok=True)

    def _push(self, name: str) -> None:
        reference = self.image_reference(name)
        if self._engine == "buildah":
            from dev.cluster.images.buildah import push

            push(self._settings, name, reference)
            return
        run(self._engine, "tag", name, reference)
        run(self._engine, "push", reference)

    def _check_loadable(self) -> None:
        if self._settings.registry:
            return
        tools = {"kind-": "", "k3d-": "k3d", "minikube": "minikube"}
        tool = next((tool for prefix, tool in tools.items() if self._context.startswith(prefix)), None)
        if tool is None:
            raise ClusterError(
                f"no way to bring images to SPILLWAY_CONTEXT={self._context}: it is no context of kind, k3d or minikube; "
                "set SPILLWAY_REGISTRY to a registry that you can push to and the cluster can pull from"
            )
        needed = [word for word in (tool, "a running docker or podman") if word]
        if self._engine == "buildah" or (tool and shutil.which(tool) is None):
            raise ClusterError(
                f"SPILLWAY_CONTEXT={self._context} takes images by {' and '.join(needed)}; start or install that, "
                "or set SPILLWAY_REGISTRY"
            )
