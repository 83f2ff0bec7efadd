"""Leave the sidecar's user to the cluster where it hands out users itself: OpenShift, by SecurityContextConstraints.

Its default SCC, restricted-v2, admits users of the namespace's range alone and gives a container that names none the range's first. That
is the engine's user too and says nothing of the pool, so that it will do only for volumes that are the pod's own: stores on a node's disk
are told apart by their users (docs/adr/0001). It is a second choice: where the API server takes the pool's user, that is it.

Source: OpenShift, "Managing security context constraints", MustRunAsRange and openshift.io/sa.scc.uid-range.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from spillway_operator.injection.facts import Facts, Pod

UID_RANGE_ANNOTATION: Final = "openshift.io/sa.scc.uid-range"
ROOT: Final = 0


def with_assigned_user(pod: Pod, facts: Facts) -> Facts | None:
    """The facts by which `pod` is injected under a user of the cluster's choice; None where that may not or need not be."""
    pool = facts.pool
    if pool is None or UID_RANGE_ANNOTATION not in facts.namespace_annotations:
        return None
    nvme = pool.spec.tiers.nvme
    if nvme is not None and nvme.volume.type == "HostPath":
        return None
    if pool.spec.sidecar.security_context.run_as_user is not None:
        return None
    # A container that names no user has the pod's, and ours never run as root.
    if (pod["spec"].get("securityContext") or {}).get("runAsUser") == ROOT:
        return None
    return replace(facts, is_user_assigned=True)
