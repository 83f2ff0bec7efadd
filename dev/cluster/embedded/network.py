"""The node's network: a namespace that holds all of a cluster's processes, links and packet rules, joined to the machine.

Two kube-proxies in one namespace would overwrite each other's chains, and each of them those of whatever runs there. So
the machine itself gets one link, two routes and one rule that lets pods reach what the machine reaches.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Final

from dev.cluster.commands import run
from dev.cluster.embedded.addresses import NODE_LINK, Addresses
from dev.cluster.embedded.paths import Paths

_FORWARDING: Final = "net/ipv4/ip_forward"
_CNI_RESULTS: Final = Path("/var/lib/cni/results")


def enter(paths: Paths) -> tuple[str, ...]:
    """What a command line begins with that runs in the node's network. Only the network: mounts are the machine's."""
    return ("nsenter", f"--net={paths.namespace}", "--")


def make(paths: Paths, addresses: Addresses) -> None:
    """Make the namespace and join it to the machine. Safe to repeat."""
    if not os.path.ismount(paths.namespace):
        paths.namespace.parent.mkdir(parents=True, exist_ok=True)
        paths.namespace.touch()
        run("unshare", f"--net={paths.namespace}", "true")
    if not has_link(addresses):
        run(
            "ip",
            "link",
            "add",
            addresses.host_link,
            "type",
            "veth",
            "peer",
            "name",
            NODE_LINK,
            "netns",
            paths.namespace,
        )
    inside, prefix = enter(paths), addresses.link_prefix
    run(*inside, "ip", "link", "set", "lo", "up")
    run(*inside, "ip", "address", "replace", f"{addresses.node_ip}/{prefix}", "dev", NODE_LINK)
    run(*inside, "ip", "link", "set", NODE_LINK, "up")
    run("ip", "address", "replace", f"{addresses.host_ip}/{prefix}", "dev", addresses.host_link)
    run("ip", "link", "set", addresses.host_link, "up")
    run(*inside, "ip", "route", "replace", "default", "via", addresses.host_ip)
    for network in (addresses.pod_network, addresses.service_network):
        run("ip", "route", "replace", network, "via", addresses.node_ip, "dev", addresses.host_link)
    run(*inside, "sh", "-c", f"echo 1 >/proc/sys/{_FORWARDING}")
    Path("/proc/sys", _FORWARDING).write_text("1")
    if not rules(addresses):
        run("iptables", "-t", "nat", "-A", *_rule(addresses))


def remove(paths: Paths, addresses: Addresses) -> None:
    """Take the link with its routes, the rule and CNI's records away; the namespace goes with its mount."""
    if rules(addresses):
        run("iptables", "-t", "nat", "-D", *_rule(addresses), check=False)
    if has_link(addresses):
        run("ip", "link", "delete", addresses.host_link, check=False)
    for path in _CNI_RESULTS.glob(f"{addresses.host_link}-*"):
        path.unlink()


def has_link(addresses: Addresses) -> bool:
    """Whether the machine's end of the link is there; its routes come and go with it."""
    return Path("/sys/class/net", addresses.host_link).exists()


def rules(addresses: Addresses) -> list[str]:
    """The machine's packet rules that are this instance's; a machine without the program that adds them has none."""
    if shutil.which("iptables-save") is None:
        return []
    saved = run("iptables-save", "-t", "nat", check=False)
    return [line for line in saved.splitlines() if line.startswith("-A") and addresses.host_link in line]


def processes(paths: Paths) -> set[int]:
    """Pids of everything that runs in the node's network; pods have networks of their own."""
    if not paths.namespace.exists():
        return set()
    pids = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if paths.namespace.samefile(folder / "ns" / "net"):
                pids.add(int(folder.name))
        except OSError:  # it has just ended
            continue
    return pids


def _rule(addresses: Addresses) -> tuple[str, ...]:
    comment = ("-m", "comment", "--comment", addresses.host_link)
    return (
        "POSTROUTING",
        "-s",
        f"{addresses.node_ip}/32",
        "!",
        "-o",
        addresses.host_link,
        *comment,
        "-j",
        "MASQUERADE",
    )
