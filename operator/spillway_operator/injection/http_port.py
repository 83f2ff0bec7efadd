"""The port on which the sidecar tells of itself: 9464, unless somebody else has it. The sidecar starts first and would take it.

In the pod's own network the containers declare what they use. On the node's network neighbours declare nothing that is known here,
so that one is drawn at admission, and the operator finds it in the pod's annotation.
"""

from __future__ import annotations

from spillway.config import HTTP_PORT

from spillway_operator.injection.facts import Facts, Pod
from spillway_operator.injection.qos import all_containers

# Below NodePorts (30000) and the ports that Linux gives to connections (32768), above what services are known by.
DRAWN_PORTS = range(20_000, 30_000)


def choose_http_port(pod: Pod, facts: Facts) -> int:
    """A port that no container of the pod declares."""
    declared = {port["containerPort"] for container in all_containers(pod) for port in container.get("ports") or []}
    wanted = facts.drawn_port if pod["spec"].get("hostNetwork") else HTTP_PORT
    while wanted in declared:
        wanted += 1
    return wanted
