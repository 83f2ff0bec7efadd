"""Networks of an embedded cluster. Its node is a network namespace, so ports are free there; only networks must not meet."""

from __future__ import annotations

import ipaddress
import json
from dataclasses import dataclass
from typing import Final

from dev.cluster.commands import ClusterError, run
from dev.cluster.instance import Instance

API_PORT: Final = 6443
NODE_NAME: Final = "spillway-node"
# Names inside of the node's network namespace.
NODE_LINK: Final = "node0"
POD_LINK: Final = "pods0"


@dataclass(frozen=True)
class Addresses:
    """Everything by which an instance is known on the network; none of it is a default of Kubernetes or Docker."""

    instance: Instance

    @property
    def host_link(self) -> str:
        """The machine's end of its link to the node."""
        return f"spillway-{self.instance.name}"

    @property
    def node_ip(self) -> str:
        return f"10.197.{self.instance.number}.1"

    @property
    def host_ip(self) -> str:
        return f"10.197.{self.instance.number}.2"

    @property
    def link_prefix(self) -> int:
        return 30

    @property
    def pod_network(self) -> str:
        return f"10.198.{4 * self.instance.number}.0/22"

    @property
    def node_pod_network(self) -> str:
        """The part of `pod_network` that the controller manager gives to the first node."""
        return f"10.198.{4 * self.instance.number}.0/24"

    @property
    def service_network(self) -> str:
        return f"10.199.{4 * self.instance.number}.0/22"

    @property
    def api_service_ip(self) -> str:
        return f"10.199.{4 * self.instance.number}.1"

    @property
    def dns_service_ip(self) -> str:
        return f"10.199.{4 * self.instance.number}.10"

    def check_free(self) -> None:
        """Raise ClusterError where one of these networks overlaps with a route that this machine has already."""
        ours = [ipaddress.ip_network(n) for n in (f"{self.node_ip}/32", self.pod_network, self.service_network)]
        for route in json.loads(run("ip", "-j", "-4", "route") or "[]"):
            if route["dst"] == "default" or route.get("dev") == self.host_link:
                continue
            theirs = ipaddress.ip_network(route["dst"], strict=False)
            for network in ours:
                if network.overlaps(theirs):
                    raise ClusterError(
                        f"the route to {theirs} ({route.get('dev')}) overlaps with the cluster's {network}"
                    )
