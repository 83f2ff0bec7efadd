"""Ending the embedded cluster so that the machine looks as before: pods first, while CNI can still clean up after them."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path
from typing import Final

from tests.cluster.commands import ClusterError, run, succeeds
from tests.cluster.embedded import components, machine, network
from tests.cluster.embedded.configuration import systemd_runs
from tests.cluster.embedded.container_images import ContainerImages
from tests.cluster.embedded.machine import Machine
from tests.cluster.embedded.paths import Paths
from tests.cluster.embedded.processes import Processes
from tests.cluster.progress import say, step

_PODS_SECONDS: Final = 30.0


def tear_down(paths: Paths, tools: Path) -> None:
    """End everything, restore the machine, print the comparison. Raises ClusterError naming what is left."""
    before = Machine.load(paths.snapshot)
    processes = Processes(paths)
    with step("ending pods"):
        # Nothing may recreate pods any more.
        processes.stop(components.CONTROLLERS, components.SCHEDULER, components.PROXY)
        _end_pods(paths, processes, tools)
    with step("ending the node's processes"):
        processes.stop(components.KUBELET)
        _forget_containers(paths, processes)
        # The API server cannot finish without etcd.
        processes.stop(components.APISERVER)
        processes.stop(components.ETCD, components.CONTAINERD)
    with step("restoring mounts, links, rules and cgroups"):
        _unmount_below(paths.state)
        network.remove_rules(before)
        network.remove_namespaces(before)
        network.remove_links(before)
        _remove_cgroups(before)
        for path in paths.gone_after_down():
            shutil.rmtree(path, ignore_errors=True)
        paths.kubeconfig.unlink(missing_ok=True)
        machine.restore(before)
    _compare(paths, before)
    paths.snapshot.unlink()


def _end_pods(paths: Paths, processes: Processes, tools: Path) -> None:
    if not processes.is_running(components.CONTAINERD):
        return
    if processes.is_running(components.APISERVER) and processes.is_running(components.KUBELET):
        kubectl = (tools / "kubectl", "--kubeconfig", paths.kubeconfig)
        run(
            *kubectl, "delete", "pods", "-A", "--all", "--grace-period=0", "--force", "--wait=false",
            check=False, timeout_seconds=60,
        )  # fmt: skip
    # containers stay listed until they are collected; tasks are what still runs.
    images = ContainerImages(paths)
    deadline = time.monotonic() + _PODS_SECONDS
    while images.ctr("tasks", "list", "-q", check=False).split() and time.monotonic() < deadline:
        time.sleep(0.2)


def _forget_containers(paths: Paths, processes: Processes) -> None:
    """Kill and remove what the kubelet did not: the next cluster shall find no containers of this one."""
    if not processes.is_running(components.CONTAINERD):
        return
    images = ContainerImages(paths)
    for task in images.ctr("tasks", "list", "-q", check=False).split():
        images.ctr("tasks", "delete", "--force", task, check=False)
    containers = images.ctr("containers", "list", "-q", check=False).split()
    if containers:
        images.ctr("containers", "delete", *containers, check=False)


def _unmount_below(folder: Path) -> None:
    points = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    for point in sorted((p for p in points if p.startswith(f"{folder}/")), reverse=True):
        if not succeeds("umount", point):
            run("umount", "--lazy", point, check=False)


def _remove_cgroups(before: Machine) -> None:
    for top in machine.kube_cgroups():
        if str(top) in before.cgroups:
            continue
        if systemd_runs():
            subprocess.run(["systemctl", "stop", top.name], check=False, capture_output=True)
        for folder in sorted(top.rglob("*"), key=lambda path: len(path.parts), reverse=True):
            if folder.is_dir():
                _remove_cgroup(folder)
        _remove_cgroup(top)


def _remove_cgroup(folder: Path) -> None:
    try:
        folder.rmdir()
    except OSError:
        # Still busy or already gone; the comparison tells which.
        return


def _compare(paths: Paths, before: Machine) -> None:
    after = machine.observe(paths)
    added = after.added_since(before)
    for kind, entries in added.items():
        say(
            f"compared with before: {kind:<10} {'nothing left' if not entries else f'{len(entries)} left: {entries[:5]}'}"
        )
    left = {kind: entries for kind, entries in added.items() if entries}
    if left:
        raise ClusterError(f"the cluster is down but left behind: {left}; run `down` again")
