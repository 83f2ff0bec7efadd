"""Ending an embedded cluster so that the machine looks as before: pods first, while CNI can still clean up after them."""

from __future__ import annotations

import os
import shutil
import signal
import time
from pathlib import Path
from typing import Final

from dev.cluster.commands import ClusterError, run, succeeds
from dev.cluster.embedded import cgroups, components, machine, network
from dev.cluster.embedded.addresses import Addresses
from dev.cluster.embedded.container_images import ContainerImages
from dev.cluster.embedded.machine import Machine
from dev.cluster.embedded.paths import Paths
from dev.cluster.embedded.processes import Processes
from dev.cluster.progress import say, step

_PODS_SECONDS: Final = 30.0
_KILLED_SECONDS: Final = 10.0
_RUNC: Final = Path("/run/containerd/runc/k8s.io")
_CNI_RESULTS: Final = Path("/var/lib/cni/results")


def tear_down(paths: Paths, addresses: Addresses, tools: Path, before: Path | None) -> None:
    """End everything, whatever of it is there. `before`: the machine's snapshot, None while another cluster is up.

    Prints what is left by kind, and raises ClusterError where that is anything.
    """
    processes = Processes(paths)
    with step("ending pods"):
        # Nothing may recreate pods any more.
        processes.stop(components.CONTROLLERS, components.SCHEDULER, components.PROXY)
        _end_pods(paths, processes, tools)
    with step("ending the node's processes"):
        processes.stop(components.KUBELET)
        forget_containers(paths, processes)
        # The API server cannot finish without etcd.
        processes.stop(components.APISERVER)
        processes.stop(components.ETCD, components.CONTAINERD)
        _kill_stragglers(paths, addresses)
    with step("restoring mounts, links, rules, cgroups and folders"):
        network.remove(paths, addresses)
        _unmount_below(paths.state)
        _remove_outside_state(paths)
        cgroups.remove(addresses.instance)
        for path in (*paths.gone_after_down(), addresses.instance.folder):
            shutil.rmtree(path, ignore_errors=True)
        paths.kubeconfig.unlink(missing_ok=True)
        if before is not None and before.exists():
            machine.restore(Machine.load(before))
    _compare(paths, addresses, before)


def _end_pods(paths: Paths, processes: Processes, tools: Path) -> None:
    if not processes.is_running(components.CONTAINERD):
        return
    if processes.is_running(components.APISERVER) and processes.is_running(components.KUBELET):
        kubectl = (tools / "kubectl", "--kubeconfig", paths.kubeconfig)
        run(
            *kubectl, "delete", "pods", "-A", "--all", "--grace-period=0", "--force", "--wait=false",
            "--request-timeout=20s", check=False,
        )  # fmt: skip
    # containers stay listed until they are collected; tasks are what still runs.
    images = ContainerImages(paths)
    deadline = time.monotonic() + _PODS_SECONDS
    while images.ctr("tasks", "list", "-q", check=False).split() and time.monotonic() < deadline:
        time.sleep(0.2)


def forget_containers(paths: Paths, processes: Processes) -> None:
    """Kill and remove what the kubelet did not: the next cluster shall find no containers of this one."""
    if not processes.is_running(components.CONTAINERD):
        return
    images = ContainerImages(paths)
    for task in images.ctr("tasks", "list", "-q", check=False).split():
        images.ctr("tasks", "delete", "--force", task, check=False)
    containers = images.ctr("containers", "list", "-q", check=False).split()
    if containers:
        images.ctr("containers", "delete", *containers, check=False)


def _remove_outside_state(paths: Paths) -> None:
    """What runc and CNI keep of our containers below folders that all of this machine's share."""
    containers = paths.containers()
    for container in containers:
        shutil.rmtree(_RUNC / container, ignore_errors=True)
    for result in _CNI_RESULTS.glob("*"):
        # A sandbox that was ended in the middle of its removal has no bundle any more; its network namespace lay in our state.
        if any(one in result.name for one in containers) or str(paths.state) in _text_of(result):
            result.unlink(missing_ok=True)
    shutil.rmtree(paths.bundles, ignore_errors=True)


def _text_of(path: Path) -> str:
    """Empty for a file that is gone: other clusters' come and go beside ours."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _kill_stragglers(paths: Paths, addresses: Addresses) -> None:
    """Kill what no record names: shims, and what was started when `up` was ended by force."""
    deadline = time.monotonic() + _KILLED_SECONDS
    while (left := machine.processes_of(paths, addresses)) and time.monotonic() < deadline:
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(0.1)


def _unmount_below(folder: Path) -> None:
    for point in machine.mounts_below(folder):
        if not succeeds("umount", point):
            run("umount", "--lazy", point, check=False)


def _compare(paths: Paths, addresses: Addresses, before: Path | None) -> None:
    left = machine.observe_instance(paths, addresses)
    if before is not None and before.exists():
        for kind, entries in machine.observe().added_since(Machine.load(before)).items():
            left[kind] = [*left.get(kind, []), *entries]
    for kind, entries in left.items():
        say(f"left behind: {kind:<10} {'nothing' if not entries else f'{len(entries)}: {entries[:5]}'}")
    if any(left.values()):
        raise ClusterError(
            f"the cluster is down but left behind: { ({k: v for k, v in left.items() if v}) }; run `down` again"
        )
