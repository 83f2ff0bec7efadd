"""What the machine looks like, as far as a cluster changes it: taken before `up`, restored and compared after `down`."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from tests.cluster.commands import run
from tests.cluster.embedded.addresses import NODE_LINK, POD_LINK
from tests.cluster.embedded.paths import Paths

_IPTABLES: Final = ("iptables", "ip6tables")
_TABLES: Final = ("nat", "filter", "mangle", "raw")
_NETNS: Final = Path("/run/netns")
_CGROUPS: Final = Path("/sys/fs/cgroup")
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
        "/run/containerd/s",
        "/run/containerd/fifo",
        "/run/containerd",
        "/run/netns",
        "/etc/cni/net.d",
        "/etc/cni",
        "/opt/cni",
    )
)
# kubelet and the bridge plugin write these.
_SYSCTLS: Final = (
    "net/ipv4/ip_forward",
    "net/ipv4/conf/all/route_localnet",
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
)


@dataclass(frozen=True)
class Machine:
    """Each field is what a comparison before and after looks at. `processes` are those that belong to the cluster."""

    processes: list[str]
    mounts: list[str]
    links: list[str]
    routes: list[str]
    rules: list[str]
    namespaces: list[str]
    cgroups: list[str]
    folders: list[str]
    sysctls: list[str]

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=1))

    @classmethod
    def load(cls, path: Path) -> Machine:
        return cls(**json.loads(path.read_text()))

    def added_since(self, before: Machine) -> dict[str, list[str]]:
        """What is here and was not before, by kind; a changed sysctl counts as added."""
        mine, theirs = asdict(self), asdict(before)
        return {kind: sorted(set(mine[kind]) - set(theirs[kind])) for kind in mine}


def observe(paths: Paths) -> Machine:
    """Look at everything that a cluster changes."""
    return Machine(
        processes=_processes(paths),
        mounts=_mounts(paths),
        links=[link["ifname"] for link in json.loads(run("ip", "-j", "link"))],
        routes=_own_routes(),
        rules=[
            f"{program} {table} {rule}" for program in _IPTABLES for table in _TABLES for rule in rules(program, table)
        ],
        namespaces=sorted(path.name for path in _NETNS.glob("*")),
        cgroups=sorted(map(str, kube_cgroups())),
        folders=[str(path) for path in _FOLDERS if path.is_dir()],
        sysctls=[f"{name}={_read_sysctl(name)}" for name in _SYSCTLS],
    )


def rules(program: str, table: str) -> list[str]:
    """Chains and rules of one table as iptables-save prints them, without counters."""
    lines = run(f"{program}-save", "-t", table, check=False).splitlines()
    chains = [line.split(" [")[0] for line in lines if line.startswith(":") and " - " in line]
    return chains + [line for line in lines if line.startswith("-A")]


def kube_cgroups() -> list[Path]:
    """Top cgroups of all pods in every hierarchy."""
    patterns = ("kubepods*", "*/kubepods*")
    return [path for pattern in patterns for path in _CGROUPS.glob(pattern) if path.is_dir()]


def restore(before: Machine) -> None:
    """Put sysctls back and remove folders that were not there, if they are empty."""
    for entry in before.sysctls:
        name, value = entry.split("=", 1)
        if value and _read_sysctl(name) != value:
            Path("/proc/sys", name).write_text(value)
    for folder in _FOLDERS:
        if str(folder) not in before.folders and folder.is_dir() and _holds_nothing(folder):
            shutil.rmtree(folder)


def _holds_nothing(folder: Path) -> bool:
    """No file anywhere below, but for what ended processes leave: sockets, dangling links and empty lock files."""
    return all(path.is_dir() or path.is_socket() or not path.exists() or _is_lock(path) for path in folder.rglob("*"))


def _is_lock(path: Path) -> bool:
    return path.suffix == ".lock" and path.stat().st_size == 0


def _processes(paths: Paths) -> list[str]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        if int(folder.name) == os.getpid():
            continue
        try:
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
            belongs = "kubepods" in (folder / "cgroup").read_text() or _is_component(command, paths)
        except OSError:  # it has just ended
            continue
        if belongs and command:
            found.append(f"{folder.name} {command[:120]}")
    return found


def _is_component(command: str, paths: Paths) -> bool:
    words = command.split()
    return (
        bool(words)
        and str(paths.state) in command
        and not words[0].endswith(("python", "python3", "bash", "sh", "make"))
    )


def _mounts(paths: Paths) -> list[str]:
    points = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    roots = (str(paths.state), "/var/lib/kubelet", "/run/netns", "/run/containerd")
    return [point for point in points if point.startswith(roots)]


def _own_routes() -> list[str]:
    routes = json.loads(run("ip", "-j", "-4", "route") or "[]")
    return [route["dst"] for route in routes if route.get("dev") in (NODE_LINK, POD_LINK)]


def _read_sysctl(name: str) -> str:
    path = Path("/proc/sys", name)
    return path.read_text().strip() if path.exists() else ""
