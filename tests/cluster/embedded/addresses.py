"""Networks and ports of the embedded cluster, none of them a default of Kubernetes, Docker or a Debian service."""

from __future__ import annotations

import ipaddress
import json
from dataclasses import dataclass
from typing import Final

from tests.cluster.commands import ClusterError, run


@dataclass(frozen=True)
class Ports:
    """TCP ports on the node's own addresses."""

    etcd: int = 23790
    etcd_peer: int = 23800
    apiserver: int = 23443
    controllers: int = 23257
    scheduler: int = 23259
    kubelet: int = 23250
    kubelet_healthz: int = 23248
    proxy_metrics: int = 23249
    proxy_healthz: int = 23256


PORTS: Final = Ports()
NODE_NAME: Final = "spillway-node"
NODE_IP: Final = "10.197.0.1"
NODE_LINK: Final = "spillway0"
POD_LINK: Final = "spillway1"
POD_NETWORK: Final = "10.198.0.0/16"
NODE_POD_NETWORK: Final = "10.198.0.0/24"
SERVICE_NETWORK: Final = "10.199.0.0/16"
API_SERVICE_IP: Final = "10.199.0.1"
DNS_SERVICE_IP: Final = "10.199.0.10"


def check_free() -> None:
    """Raise ClusterError where one of our networks overlaps with a route that this machine has already."""
    ours = [ipaddress.ip_network(n) for n in (f"{NODE_IP}/32", POD_NETWORK, SERVICE_NETWORK)]
    for route in json.loads(run("ip", "-j", "-4", "route") or "[]"):
        if route["dst"] == "default" or route.get("dev") in (NODE_LINK, POD_LINK):
            continue
        theirs = ipaddress.ip_network(route["dst"], strict=False)
        for network in ours:
            if network.overlaps(theirs):
                raise ClusterError(f"the route to {theirs} ({route.get('dev')}) overlaps with the cluster's {network}")
