"""What clusters change of the machine as a whole: taken before the first one comes up, restored after the last one ended.

Everything else that a cluster makes carries its name and is looked for by it, whoever made it and however that ended.
"""

from __future__ import annotations

import json
import shutil
import socket
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from dev.cluster.embedded import cgroups, network
from dev.cluster.embedded.addresses import Addresses
from dev.cluster.embedded.paths import Paths

# Folders outside our state that kubelet, containerd, CNI and buildah make on their own, children before parents.
_FOLDERS: Final = tuple(
    Path(path)
    for path in (
        "/var/lib/cni/results",
        "/var/lib/cni",
        "/var/lib/kubelet/device-plugins",
        "/var/lib/kubelet",
        "/var/log/containers",
        "/var/log/pods",
        "/run/containerd/runc/k8s.io",
        "/run/containerd/runc",
        "/run/containerd/s",
        "/run/containerd/fifo",
        "/run/containerd",
        "/run/netns",
        "/etc/cni/net.d",
        "/etc/cni",
        "/opt/cni",
    )
)
# kubelet and we write these; those of networks are the namespace's own.
_SYSCTLS: Final = (
    "net/ipv4/ip_forward",
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
)
_KUBELET_SOCKET: Final = Path("/var/lib/kubelet/device-plugins/kubelet.sock")


@dataclass(frozen=True)
class Machine:
    """What all instances share: which of the folders were there, and the values of the sysctls."""

    folders: list[str]
    sysctls: list[str]

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".tmp")
        unfinished.write_text(json.dumps(asdict(self), indent=1))
        unfinished.rename(path)

    @classmethod
    def load(cls, path: Path) -> Machine:
        return cls(**json.loads(path.read_text()))

    def added_since(self, before: Machine) -> dict[str, list[str]]:
        """What is here and was not before, by kind; a changed sysctl counts as added."""
        mine, theirs = asdict(self), asdict(before)
        return {kind: sorted(set(mine[kind]) - set(theirs[kind])) for kind in mine}


def observe() -> Machine:
    """Look at what all instances share."""
    return Machine(
        folders=[str(path) for path in _FOLDERS if path.is_dir()],
        sysctls=[f"{name}={_read_sysctl(name)}" for name in _SYSCTLS],
    )


def restore(before: Machine) -> None:
    """Put sysctls back and remove folders that were not there, if they are empty."""
    for entry in before.sysctls:
        name, value = entry.split("=", 1)
        if value and _read_sysctl(name) != value:
            Path("/proc/sys", name).write_text(value)
    for folder in _FOLDERS:
        if str(folder) not in before.folders and folder.is_dir() and _holds_nothing(folder):
            shutil.rmtree(folder)


def observe_instance(paths: Paths, addresses: Addresses) -> dict[str, list[str]]:
    """What there is of one instance, by kind."""
    instance = addresses.instance
    return {
        "processes": [_describe(pid) for pid in sorted(processes_of(paths, addresses))],
        "mounts": mounts_below(paths.state),
        "links": [addresses.host_link] if network.has_link(addresses) else [],
        "rules": network.rules(addresses),
        "cgroups": list(map(str, cgroups.folders(instance))),
        "folders": [str(path) for path in (instance.folder,) if path.exists()],
    }


def processes_of(paths: Paths, addresses: Addresses) -> set[int]:
    """Pids of the instance's components and of all that runs in its pods."""
    return network.processes(paths) | cgroups.processes(addresses.instance)


def mounts_below(folder: Path) -> list[str]:
    """Mount points below `folder`, the deepest first."""
    points = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    return sorted((point for point in points if point.startswith(f"{folder}/")), reverse=True)


def another_kubelet_runs() -> bool:
    """Whether a kubelet answers where every kubelet takes device plugins: ours would take that place over."""
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.connect(str(_KUBELET_SOCKET))
        except OSError:
            return False
    return True


def _describe(pid: int) -> str:
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        command = "ended meanwhile"
    return f"{pid} {command[:120]}"


def _holds_nothing(folder: Path) -> bool:
    """No file anywhere below, but for what ended processes leave: sockets, dangling links and empty lock files."""
    return all(path.is_dir() or path.is_socket() or not path.exists() or _is_lock(path) for path in folder.rglob("*"))


def _is_lock(path: Path) -> bool:
    return path.suffix == ".lock" and path.stat().st_size == 0


def _read_sysctl(name: str) -> str:
    path = Path("/proc/sys", name)
    return path.read_text().strip() if path.exists() else ""
