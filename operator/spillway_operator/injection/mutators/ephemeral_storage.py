"""Keep the kubelet from evicting the pod for what lies in our emptyDir.

Where any container limits its ephemeral storage, the kubelet compares the sum of the limits with all that the pod keeps on
the node's disk, our store included. The sidecar then brings its own volume's size into that sum. It requests nothing, so
that a capacity beyond the disk costs the tier and not the pod. Source: kubelet eviction manager,
podEphemeralStorageLimitEviction (1.34).
"""

from __future__ import annotations

from spillway_operator.injection.facts import Pod
from spillway_operator.injection.plan import Plan
from spillway_operator.injection.qos import all_containers

RESOURCE = "ephemeral-storage"


def mutate(pod: Pod, plan: Plan) -> None:
    """Raise the pod's sum of limits by the size of an emptyDir store, if the pod has such a sum."""
    volume = plan.nvme.volume if plan.nvme is not None else None
    if volume is None or volume.empty_dir is None:
        return
    if not any(RESOURCE in ((c.get("resources") or {}).get("limits") or {}) for c in all_containers(pod)):
        return
    resources = pod["spec"]["initContainers"][-1]["resources"]
    resources["limits"][RESOURCE] = volume.empty_dir.size_limit
    resources["requests"][RESOURCE] = "0"
