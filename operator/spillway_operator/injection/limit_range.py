"""Would the namespace's LimitRanges refuse the pod because of what is injected?

Source: k8s.io/kubernetes plugin/pkg/admission/limitranger (1.34). Only what the injection adds is judged: a pod that is
refused without us is refused with us as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from spillway_operator.api.quantity import parse_bytes, parse_millicores
from spillway_operator.injection.facts import Pod
from spillway_operator.injection.plan import Plan
from spillway_operator.injection.qos import amount
from spillway_operator.injection.sizing import CLIENT_SIZING, Sizing

_PARSERS: dict[str, Callable[[str | int | float], int]] = {"cpu": parse_millicores, "memory": parse_bytes}
Item = Mapping[str, Any]


def find_violation(pod: Pod, plan: Plan, limit_ranges: tuple[Mapping[str, Any], ...]) -> str:
    """What the first violated limit says, empty if there is none."""
    for limit_range in limit_ranges:
        name = (limit_range.get("metadata") or {}).get("name", "")
        for item in (limit_range.get("spec") or {}).get("limits") or []:
            for violation in _violations(item, pod, plan):
                return f"LimitRange {name!r}: {violation}"
    return ""


def _violations(item: Item, pod: Pod, plan: Plan) -> Iterator[str]:
    match item.get("type"):
        case "Container":
            yield from _container_violations(item, "spillway", plan.sizing)
            yield from _container_violations(item, "spillway-client", CLIENT_SIZING)  # spillway-disk asks the same
        case "Pod":
            yield from _pod_violations(item, pod, plan)
        case "PersistentVolumeClaim":
            yield from _claim_violations(item, plan)


def _container_violations(item: Item, container: str, sizing: Sizing) -> Iterator[str]:
    for resource, request, limit in _amounts(sizing):
        most, least = _bound(item, "max", resource), _bound(item, "min", resource)
        if most is not None and limit > most:
            yield f"container {container} needs {resource} limit {limit} above the maximum {most}"
        if least is not None and request < least:
            yield f"container {container} requests {resource} {request} below the minimum {least}"
        ratio = _ratio(item, resource)
        if ratio is not None and limit > ratio * request:
            yield f"container {container} has {resource} limit/request above the ratio {ratio}"


def _pod_violations(item: Item, pod: Pod, plan: Plan) -> Iterator[str]:
    for resource, request, limit in _amounts(plan.sizing):
        requests, limits = request + _total(pod, "requests", resource), limit + _total(pod, "limits", resource)
        most, ratio = _bound(item, "max", resource), _ratio(item, resource)
        if most is not None and limits > most:
            yield f"the pod needs {resource} limit {limits} above the maximum {most} of a pod"
        if ratio is not None and limits > ratio * requests:
            yield f"the pod has {resource} limit/request above the ratio {ratio}"


def _claim_violations(item: Item, plan: Plan) -> Iterator[str]:
    if plan.nvme is None or plan.nvme.volume.type != "Ephemeral":
        return
    wanted = plan.nvme.volume_bytes
    most, least = ((item.get(kind) or {}).get("storage") for kind in ("max", "min"))
    if most is not None and wanted > parse_bytes(most):
        yield f"the claim of {wanted} bytes is above the maximum {most}"
    if least is not None and wanted < parse_bytes(least):
        yield f"the claim of {wanted} bytes is below the minimum {least}"


def _amounts(sizing: Sizing) -> tuple[tuple[str, int, int], ...]:
    return (
        ("cpu", sizing.cpu_request_millicores, sizing.cpu_limit_millicores),
        ("memory", sizing.memory_bytes, sizing.memory_bytes),
    )


def _bound(item: Item, kind: str, resource: str) -> int | None:
    stated = (item.get(kind) or {}).get(resource)
    return None if stated is None else _PARSERS[resource](stated)


def _ratio(item: Item, resource: str) -> float | None:
    stated = (item.get("maxLimitRequestRatio") or {}).get(resource)
    return None if stated is None else parse_millicores(stated) / 1000


def _total(pod: Pod, kind: str, resource: str) -> int:
    """What runs at the same time as the sidecar: containers and native sidecars."""
    spec = pod["spec"]
    sidecars = [c for c in spec.get("initContainers") or [] if c.get("restartPolicy") == "Always"]
    return sum(amount(container, kind, resource) for container in [*spec["containers"], *sidecars])
