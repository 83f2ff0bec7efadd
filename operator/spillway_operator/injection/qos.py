"""QoS class of a pod, as the API server will compute it. Source: k8s.io/component-helpers, qos.ComputePodQOS (1.34)."""

from __future__ import annotations

from collections.abc import Iterator

from spillway_operator.api.quantity import parse_bytes, parse_millicores
from spillway_operator.injection.facts import Container, Pod

_PARSERS = {"cpu": parse_millicores, "memory": parse_bytes}


def all_containers(pod: Pod) -> Iterator[Container]:
    """Init containers, then the others."""
    yield from pod["spec"].get("initContainers") or []
    yield from pod["spec"]["containers"]


def amount(container: Container, kind: str, resource: str) -> int:
    """Bytes or millicores of `resource` under resources.<kind> (requests or limits).

    0 when absent; an absent request is the limit, as the API server will default it.
    """
    resources = container.get("resources") or {}
    stated = (resources.get(kind) or {}).get(resource)
    if stated is None and kind == "requests":
        stated = (resources.get("limits") or {}).get(resource)
    return 0 if stated is None else _PARSERS[resource](stated)


def is_guaranteed(pod: Pod) -> bool:
    """Whether every container has CPU and memory limits that equal its requests."""
    return all(
        amount(container, "limits", resource) > 0
        and amount(container, "requests", resource) == amount(container, "limits", resource)
        for container in all_containers(pod)
        for resource in _PARSERS
    )
