"""Where things lie and which versions are meant: the only module that reads the environment."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dev.cluster.instance import Instance

PROJECT: Final = Path(__file__).resolve().parents[2]

KUBERNETES_VERSION: Final = "1.34.2"
COREDNS_VERSION: Final = "1.12.4"
HELM_VERSION: Final = "3.22.0"
# Brings the node image that it was released with, Kubernetes 1.34.0, by digest.
KIND_VERSION: Final = "0.30.0"


def _cache_folder() -> Path:
    explicit = os.environ.get("SPILLWAY_CACHE")
    if explicit:
        return Path(explicit)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "spillway"


@dataclass(frozen=True)
class Settings:
    """What the environment asks for; empty where it asks nothing. `authorities` is a file of trusted certificates."""

    cache: Path
    context: str
    registry: str
    base_image: str
    uv: str
    authorities: str

    @classmethod
    def from_environment(cls) -> Settings:
        return cls(
            cache=_cache_folder().absolute(),
            context=os.environ.get("SPILLWAY_CONTEXT", ""),
            registry=os.environ.get("SPILLWAY_REGISTRY", "").rstrip("/"),
            base_image=os.environ.get("SPILLWAY_BASE_IMAGE", ""),
            uv=os.environ.get("UV", ""),
            authorities=os.environ.get("SSL_CERT_FILE", ""),
        )

    @property
    def binaries(self) -> Path:
        """Finished programs, named <name>-<version>, so that a new version never overwrites a running one."""
        return self.cache / "bin"

    @property
    def tools(self) -> Path:
        """Links with plain names into `binaries`, to be put on a PATH."""
        return self.cache / "tools"

    @property
    def clusters(self) -> Path:
        """What belongs to clusters."""
        return self.cache / "clusters"

    def state(self, instance: Instance) -> Path:
        """What belongs to one running cluster; images survive `down` here, nothing else of a cluster does."""
        return self.clusters / instance.name

    @property
    def build(self) -> Path:
        """Storage of image builds (layers, root file systems)."""
        return self.cache / "build"
