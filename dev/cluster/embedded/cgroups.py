"""The cgroup below which an instance's pods run: its own, because a kubelet takes whatever lies below its root for its own."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Final

from dev.cluster.instance import Instance

_HIERARCHIES: Final = Path("/sys/fs/cgroup")


def systemd_runs() -> bool:
    """Whether systemd owns the cgroups, so that kubelet and runc must ask it for theirs."""
    return Path("/run/systemd/system").is_dir()


def root(instance: Instance) -> str:
    """What the kubelet is told; no dash, which systemd would take for a path."""
    return f"/spillway{instance.name}"


def make(instance: Instance) -> None:
    """Make it in every hierarchy: the kubelet refuses a root that does not exist. Safe to repeat."""
    if systemd_runs():
        subprocess.run(["systemctl", "start", _slice(instance)], check=True, capture_output=True)
        return
    for hierarchy in _hierarchies():
        (hierarchy / root(instance)[1:]).mkdir(exist_ok=True)


def folders(instance: Instance) -> list[Path]:
    """Where it exists now, one folder per hierarchy."""
    name = _slice(instance) if systemd_runs() else root(instance)[1:]
    return [folder for hierarchy in _hierarchies() if (folder := hierarchy / name).is_dir()]


def processes(instance: Instance) -> set[int]:
    """Pids of everything that runs in a pod of this instance."""
    pids: set[int] = set()
    for top in folders(instance):
        for path in (top, *top.rglob("*")):
            if path.is_dir():
                pids.update(_pids_in(path))
    return pids


def remove(instance: Instance) -> None:
    """Remove it with all below. What is still busy stays; `folders` tells."""
    tops = folders(instance)
    if systemd_runs():
        subprocess.run(["systemctl", "stop", _slice(instance)], check=False, capture_output=True)
    for top in tops:
        for folder in sorted(top.rglob("*"), key=lambda path: len(path.parts), reverse=True):
            if folder.is_dir():
                _remove_one(folder)
        _remove_one(top)


def _slice(instance: Instance) -> str:
    return f"{root(instance)[1:]}.slice"


def _hierarchies() -> list[Path]:
    """One in version 2, one per controller in version 1, where `unified` may stand beside them."""
    if (_HIERARCHIES / "cgroup.procs").exists():
        return [_HIERARCHIES]
    return [path for path in _HIERARCHIES.iterdir() if path.is_dir() and not path.is_symlink()]


def _pids_in(folder: Path) -> set[int]:
    try:
        return {int(line) for line in (folder / "cgroup.procs").read_text().split()}
    except OSError:  # gone meanwhile, or a threaded cgroup of version 2
        return set()


def _remove_one(folder: Path) -> None:
    try:
        folder.rmdir()
    except OSError:
        # Still busy or already gone; the comparison tells which.
        return
