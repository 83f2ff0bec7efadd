"""The init container `spillway-disk`: gives the folder of the NVMe tier to the sidecar's user, where nothing else may (disk_owner.py).

The kubelet makes that folder, or a file system has it from its making, and it is root's. This container is root with the one right to
change owners, sees nothing but that folder and ends before the sidecar starts; it never fails, so that a disk costs the tier and not
the pod.
"""

from __future__ import annotations

from spillway_operator.api import names
from spillway_operator.injection.disk_owner import DiskOwner
from spillway_operator.injection.facts import Pod
from spillway_operator.injection.mutators.volumes import no_token
from spillway_operator.injection.plan import Plan
from spillway_operator.injection.security import build_disk_security_context
from spillway_operator.injection.sizing import CLIENT_SIZING


def mutate(pod: Pod, plan: Plan) -> None:
    """Append the container."""
    if plan.nvme is None or plan.disk_owner is not DiskOwner.CONTAINER:
        return
    kind = "folder" if plan.nvme.volume.host_path is not None else "volume"
    group = plan.pool.spec.sidecar.security_context.run_as_group
    pod["spec"].setdefault("initContainers", []).append(
        {
            "name": names.DISK_CONTAINER,
            "image": plan.image,
            "imagePullPolicy": plan.pull_policy,
            "command": [*names.DISK_COMMAND, str(plan.user), str(group), kind],
            "resources": CLIENT_SIZING.render(),
            "securityContext": build_disk_security_context(plan),
            "volumeMounts": [{"name": names.NVME_VOLUME, "mountPath": names.NVME_PATH}, no_token()],
        }
    )
