"""Let the pod's fsGroup give the sidecar its claim, where that changes nothing else: see disk_owner.py."""

from __future__ import annotations

from spillway_operator.injection.disk_owner import DiskOwner
from spillway_operator.injection.facts import Pod
from spillway_operator.injection.plan import Plan


def mutate(pod: Pod, plan: Plan) -> None:
    """Set fsGroup to the sidecar's group."""
    if plan.disk_owner is not DiskOwner.FS_GROUP:
        return
    group = plan.pool.spec.sidecar.security_context.run_as_group
    security = pod["spec"].get("securityContext") or {}
    pod["spec"]["securityContext"] = {**security, "fsGroup": group, "fsGroupChangePolicy": "OnRootMismatch"}
