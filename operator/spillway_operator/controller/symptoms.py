"""What keeps an injected pod from starting because of what was injected: read from the pod alone. Pure.

Only our own containers, volumes and requests count. A pod that waits for GPUs, for its own image or for its own claim waits for
nothing of ours.

Sources: the kubelet's waiting reasons, and the scheduler's words in the condition PodScheduled ("0/4 nodes are available: 1
Insufficient memory, 3 Insufficient nvidia.com/gpu. preemption: ..."), which have no other form than these words.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from spillway_operator.api import Reason, names

# The kubelet says so of every container that is not its turn yet.
_NO_SYMPTOM = ("PodInitializing", "ContainerCreating")
_CLAIMS = ("persistentVolumeClaim", "ephemeral")
_MAX_MESSAGE_CHARACTERS = 300

_NODES = re.compile(r"^0/(\d+) nodes are available: (.*)$", re.DOTALL)
_NODE_REASON = re.compile(r"^(\d+) (.*)$", re.DOTALL)
# Of a volume that no node can give; "ours" only where the pod has no other claim.
_NO_VOLUME = re.compile(
    r"find available persistent volumes to bind|enough free storage|volume node affinity conflict"
    r"|unbound immediate PersistentVolumeClaims|exceed max volume count"
)


@dataclass(frozen=True, slots=True)
class Symptom:
    """Why a pod does not start. Not `proven`: a slow start looks the same, and the cluster's Events tell the two apart."""

    reason: str
    message: str
    proven: bool = True


def find_symptom(body: Mapping[str, Any]) -> Symptom | None:
    """The symptom of an injected pod as the API server shows it, None where nothing of ours holds it up."""
    status, spec = body.get("status") or {}, body.get("spec") or {}
    statuses = [s for s in status.get("initContainerStatuses") or [] if s.get("name") in names.CONTAINERS]
    for container in statuses:
        if symptom := _container_symptom(container):
            return symptom
    if status.get("phase") not in (None, "", "Pending"):
        return None
    scheduled = _condition(status, "PodScheduled")
    if scheduled.get("status") == "False" and scheduled.get("reason") == "Unschedulable":
        return _unschedulable(str(scheduled.get("message", "")), body)
    if not spec.get("nodeName") and scheduled.get("reason") in (None, "SchedulerError") and _claims(spec)[0]:
        # The scheduler has a node and waits for the claim to be provisioned there, without a word; or it does not run.
        return Symptom(Reason.VOLUME_NOT_PROVISIONED, "", proven=False)
    if spec.get("nodeName") and not any(_has_begun(s) for s in status.get("initContainerStatuses") or []):
        return Symptom(Reason.VOLUME_NOT_ATTACHED, "its volumes are not there yet", proven=False)
    return None


def claim_name(pod_name: str) -> str:
    """Name of the claim that is made for our ephemeral volume of a pod (generic ephemeral volumes, KEP-1698)."""
    return f"{pod_name}-{names.NVME_VOLUME}"


def has_own_claim(body: Mapping[str, Any]) -> bool:
    """Whether the pod has a claim beside ours."""
    return _claims(body.get("spec") or {})[1]


def has_begun(status: Mapping[str, Any]) -> bool:
    """Whether a container of the user's, init containers aside, ever began: then the pod is not ours to delete."""
    return any(_has_begun(container) for container in status.get("containerStatuses") or [])


def _container_symptom(container: Mapping[str, Any]) -> Symptom | None:
    waiting = (container.get("state") or {}).get("waiting") or {}
    reason = str(waiting.get("reason") or "")
    if not reason or reason in _NO_SYMPTOM:
        return None
    # The kubelet alternates between the two as it backs off; to a person it is one state.
    reason = "ImagePullBackOff" if reason == "ErrImagePull" else reason
    return Symptom(reason, f"the kubelet cannot start container {container['name']}")


def _unschedulable(message: str, body: Mapping[str, Any]) -> Symptom | None:
    spec = body.get("spec") or {}
    ours, theirs = _claims(spec)
    match = _NODES.match(message.split(" preemption:")[0])
    if match is None:
        return None
    nodes, words = int(match[1]), match[2]
    short = _MAX_MESSAGE_CHARACTERS
    if ours and f'"{claim_name(body["metadata"]["name"])}"' in words:
        return Symptom(Reason.VOLUME_NOT_PROVISIONED, words[:short], proven=False)
    counted = [(int(m[1]), m[2]) for part in re.split(r", (?=\d+ )", words) if (m := _NODE_REASON.match(part))]
    if not counted and ours and _NO_VOLUME.search(words):
        # Said of the pod and not of nodes. Another claim may be the one; of a slow provisioner it is said as well.
        return Symptom(Reason.VOLUME_NOT_PROVISIONED, words[:short], proven=False)
    requested = _requests(spec)
    volume = [count for count, why in counted if _NO_VOLUME.search(why)]
    resources = [count for count, why in counted if _insufficient(why) in requested]
    # A node that lacks two things is counted twice, so that what is left is on nodes that lack nothing but ours.
    others = sum(count for count, _ in counted) - sum(resources) - (sum(volume) if ours else 0)
    if nodes <= others:
        return None
    if ours and volume:
        return Symptom(Reason.VOLUME_NOT_PROVISIONED, words[:short], proven=not theirs)
    return Symptom(Reason.DOES_NOT_FIT, words[:short]) if resources else None


def _insufficient(why: str) -> str:
    return why.removeprefix("Insufficient ").rstrip(". ").split(". ")[0] if why.startswith("Insufficient ") else ""


def _claims(spec: Mapping[str, Any]) -> tuple[bool, bool]:
    """Whether the pod has a claim of ours, and whether it has one of its own."""
    claims = [volume for volume in spec.get("volumes") or [] if any(kind in volume for kind in _CLAIMS)]
    ours = [volume for volume in claims if volume["name"] == names.NVME_VOLUME]
    return bool(ours), len(claims) > len(ours)


def _requests(spec: Mapping[str, Any]) -> set[str]:
    containers: Iterable[Mapping[str, Any]] = spec.get("initContainers") or []
    sidecars = [container for container in containers if container.get("name") == names.SIDECAR_CONTAINER]
    return {name for sidecar in sidecars for name in (sidecar.get("resources") or {}).get("requests") or {}}


def _condition(status: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    return next((c for c in status.get("conditions") or [] if c.get("type") == kind), {})


def _has_begun(container: Mapping[str, Any]) -> bool:
    state = container.get("state") or {}
    return "running" in state or "terminated" in state or bool(container.get("restartCount"))
