"""Let the cluster autoscaler still remove the node: our volumes on its disk hold nothing that cannot be recomputed."""

from __future__ import annotations

from spillway_operator.api import names
from spillway_operator.injection.facts import Pod
from spillway_operator.injection.plan import Plan


def mutate(pod: Pod, plan: Plan) -> None:
    """Add our volumes on the node's disk to the list of those that are safe to lose."""
    ours = [names.CLIENT_VOLUME]
    if plan.nvme is not None and plan.nvme.volume.type != "Ephemeral":
        ours.append(names.NVME_VOLUME)
    annotations = pod["metadata"].setdefault("annotations", {})
    theirs = [name for name in annotations.get(names.SAFE_TO_EVICT_ANNOTATION, "").split(",") if name]
    annotations[names.SAFE_TO_EVICT_ANNOTATION] = ",".join([*theirs, *(name for name in ours if name not in theirs)])
