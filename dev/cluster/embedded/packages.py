"""Debian packages of the embedded cluster: say what is missing, install it, start nothing."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from dev.cluster.commands import ClusterError, run, succeeds
from dev.cluster.progress import say, step

# What proves that a package is there, and the package: to build images without a container engine, and to run a node.
IMAGES: Final = {"mmdebstrap": "mmdebstrap", "buildah": "buildah", "gcc": "gcc"}
NODE: Final = {
    **IMAGES,
    "containerd": "containerd",
    "runc": "runc",
    "etcd": "etcd-server",
    "iptables": "iptables",
    "conntrack": "conntrack",
    "ip": "iproute2",
    "ethtool": "ethtool",
    "socat": "socat",
    "ebtables": "ebtables",
    "kmod": "kmod",
    "losetup": "mount",
    "mkfs.ext4": "e2fsprogs",
    "/usr/lib/cni/bridge": "containernetworking-plugins",
}
_POLICY: Final = Path("/usr/sbin/policy-rc.d")


def missing(needed: Mapping[str, str]) -> list[str]:
    """Packages whose program is neither on the PATH nor in the system's own folders."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    return [package for program, package in needed.items() if shutil.which(program, path=path) is None]


def install_missing(needed: Mapping[str, str]) -> None:
    """Install what is missing. Raises ClusterError over a running Docker or where there is no apt-get."""
    packages = missing(needed)
    if not packages:
        return
    if "containerd" in packages and succeeds("docker", "info"):
        raise ClusterError(
            "Docker runs on this machine and its packages conflict with Debian's containerd; end the embedded cluster "
            "(`make cluster-down`) and kind will use Docker, or name a cluster in SPILLWAY_CONTEXT"
        )
    if shutil.which("apt-get") is None:
        raise ClusterError(f"these packages are missing and there is no apt-get to install them: {', '.join(packages)}")
    say(f"will install Debian packages (no service is started): {' '.join(packages)}")
    quiet = {"DEBIAN_FRONTEND": "noninteractive"}
    with step("apt-get install"), _no_service_starts():
        run("apt-get", "update", "-qq", environment=quiet)
        # --no-remove: rather fail than take away another container engine.
        arguments = ("install", "-y", "-qq", "--no-install-recommends", "--no-remove")
        run("apt-get", *arguments, *packages, environment=quiet)


@contextmanager
def _no_service_starts() -> Iterator[None]:
    """Debian asks policy-rc.d before it starts a service on installation; 101 means no."""
    if _POLICY.exists():
        yield
        return
    _POLICY.write_text("#!/bin/sh\nexit 101\n")
    _POLICY.chmod(0o755)
    try:
        yield
    finally:
        _POLICY.unlink(missing_ok=True)
