"""Say on the pod what was done: the revision as a label, the rest as one JSON annotation."""

from __future__ import annotations

import json

from spillway_operator.api import names
from spillway_operator.injection.facts import Pod
from spillway_operator.injection.plan import Plan


def mutate(pod: Pod, plan: Plan) -> None:
    """Set revision and status, drop a reason for skipping that no longer holds."""
    metadata = pod["metadata"]
    metadata.setdefault("labels", {})[names.REVISION_LABEL] = plan.config.revision
    annotations = metadata.setdefault("annotations", {})
    annotations.pop(names.SKIPPED_ANNOTATION, None)
    annotations.pop(names.SKIPPED_MESSAGE_ANNOTATION, None)
    status = {
        "pool": plan.pool.metadata.name,
        "poolUid": plan.pool.metadata.uid,
        "revision": plan.config.revision,
        "image": plan.image,
        "engine": plan.engine(pod)["name"],
        "port": plan.config.http_port,
    }
    annotations[names.STATUS_ANNOTATION] = json.dumps(status, separators=(",", ":"), sort_keys=True)
