"""Let the sidecar own its claim: a fresh claim's root folder belongs to root, and only fsGroup changes that.

A pod's fsGroup also re-owns every other volume of the pod that supports it, so it is set only where there is none to
re-own, and never changed. Otherwise the sidecar runs without its NVMe tier and says so.
"""

from __future__ import annotations

from spillway_operator.api import names
from spillway_operator.injection.facts import Pod
from spillway_operator.injection.plan import Plan

_REOWNED = ("persistentVolumeClaim", "ephemeral", "csi")


def mutate(pod: Pod, plan: Plan) -> None:
    """Set fsGroup to the sidecar's group for a claim, if the pod has no fsGroup and no claim of its own."""
    if plan.nvme is None or plan.nvme.volume.type != "Ephemeral":
        return
    security = pod["spec"].get("securityContext") or {}
    theirs = [volume for volume in pod["spec"]["volumes"] if volume["name"] != names.NVME_VOLUME]
    if security.get("fsGroup") is not None or any(source in volume for volume in theirs for source in _REOWNED):
        return
    group = plan.pool.spec.sidecar.security_context.run_as_group
    pod["spec"]["securityContext"] = {**security, "fsGroup": group, "fsGroupChangePolicy": "OnRootMismatch"}
