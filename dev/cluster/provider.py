"""What every kind of cluster offers, and the choice of the first that fits."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Final, Protocol

from dev.cluster.commands import ClusterError, succeeds
from dev.cluster.instance import Instance
from dev.cluster.progress import say
from dev.cluster.settings import Settings

_ENGINES: Final = ("docker", "podman")
# HOME too: caches and the checkout's environment are the caller's.
_KEPT_BY_SUDO: Final = ("SPILLWAY_", "KUBECONFIG", "XDG_", "PYTHON", "PATH", "HOME", "UV", "SSL_CERT_FILE", "GO")


class Provider(Protocol):
    """A Kubernetes with one way to bring images to its nodes."""

    @property
    def name(self) -> str:
        """What a person would call it."""

    @property
    def is_ours(self) -> bool:
        """Whether `up` makes the cluster and `down` ends it with everything in it."""

    def up(self) -> None:
        """Bring the cluster up; nothing to do where it is up. Raises ClusterError."""

    def down(self) -> None:
        """End what `up` made and leave nothing behind. Raises ClusterError naming what stayed."""

    def is_up(self) -> bool:
        """Whether the API server answers as ready."""

    def kubeconfig(self) -> Path:
        """The admin's kubeconfig."""

    def builder(self) -> str:
        """The program that builds images for it: buildah, docker or podman."""

    def image_reference(self, name: str) -> str:
        """How pods name the image that we build as `name`."""

    def loaded_images(self) -> dict[str, str]:
        """References known to be on the nodes, each with the content hash it was built from."""

    def load(self, name: str, content_hash: str) -> None:
        """Bring a built image to the nodes and remember its content hash. Raises ClusterError."""


def running_engine() -> str | None:
    """docker or podman, whichever really answers."""
    return next((engine for engine in _ENGINES if succeeds(engine, "info")), None)


def choose_provider(settings: Settings, instance: Instance) -> Provider:
    """SPILLWAY_CONTEXT's cluster, else kind where a container engine runs, else the embedded cluster."""
    # Imported here because each needs what the others do not.
    from dev.cluster.embedded import EmbeddedCluster
    from dev.cluster.kind import KindCluster
    from dev.cluster.named_context import NamedContext

    if settings.context:
        return NamedContext(settings, instance)
    if EmbeddedCluster.exists(settings, instance):
        return EmbeddedCluster(settings, instance)
    engine = running_engine()
    return EmbeddedCluster(settings, instance) if engine is None else KindCluster(settings, instance, engine)


def become_root() -> None:
    """Start this program again through sudo where it is not root: the embedded cluster needs namespaces and links, a
    build without a container engine mounts."""
    if os.geteuid() == 0:
        return
    if shutil.which("sudo") is None:
        raise ClusterError("this needs root and there is no sudo; run it as root")
    say("this needs root; going on through sudo")
    keep = [f"{key}={value}" for key, value in os.environ.items() if key.startswith(_KEPT_BY_SUDO)]
    os.execvp("sudo", ["sudo", "env", *keep, sys.executable, *sys.orig_argv[1:]])
