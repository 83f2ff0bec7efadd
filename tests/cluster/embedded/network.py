"""Links, packet rules and network namespaces: the node's own address, and removal of what components left behind."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Final

from tests.cluster.commands import run
from tests.cluster.embedded.addresses import NODE_IP, NODE_LINK, POD_LINK
from tests.cluster.embedded.configuration import CNI_NETWORK_NAME
from tests.cluster.embedded.machine import Machine

_MARKS: Final = ("KUBE-", "CNI-")
_CNI_RESULTS: Final = Path("/var/lib/cni/results")


def add_node_link() -> None:
    """A bridge that carries the node's address: not every kernel has dummy links. Safe to repeat."""
    if NODE_LINK not in _links():
        run("ip", "link", "add", NODE_LINK, "type", "bridge")
    run("ip", "address", "replace", f"{NODE_IP}/32", "dev", NODE_LINK)
    run("ip", "link", "set", NODE_LINK, "up")


def remove_links(before: Machine) -> None:
    """Remove our two bridges and whatever pods' ends are still plugged into them."""
    attached = [link["ifname"] for link in json.loads(run("ip", "-j", "link")) if link.get("master") == POD_LINK]
    for name in (*attached, POD_LINK, NODE_LINK):
        if name not in before.links:
            run("ip", "link", "delete", name, check=False)


def remove_rules(before: Machine) -> None:
    """Take kube-proxy's, the kubelet's and CNI's chains and every rule that names them out of all tables."""
    for program in ("iptables", "ip6tables"):
        if shutil.which(f"{program}-save") is None:
            continue
        for table in ("nat", "filter", "mangle", "raw"):
            saved = run(f"{program}-save", "-t", table, check=False)
            kept = [line for line in saved.splitlines() if not any(mark in line for mark in _MARKS)]
            if len(kept) < len(saved.splitlines()) and not has_cluster_rules(before):
                run(f"{program}-restore", "-T", table, stdin="\n".join([*kept, ""]))


def remove_namespaces(before: Machine) -> None:
    """Remove pods' network namespaces and CNI's records of them."""
    for path in Path("/run/netns").glob("cni-*"):
        if path.name not in before.namespaces:
            run("ip", "netns", "delete", path.name, check=False)
    for path in _CNI_RESULTS.glob(f"{CNI_NETWORK_NAME}-*"):
        path.unlink()


def has_cluster_rules(machine: Machine) -> bool:
    """Whether a Kubernetes, ours or another, has its rules here."""
    return any("KUBE-" in rule for rule in machine.rules)


def _links() -> set[str]:
    return {link["ifname"] for link in json.loads(run("ip", "-j", "link"))}
