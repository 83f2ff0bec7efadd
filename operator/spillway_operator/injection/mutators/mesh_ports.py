"""Take the sidecar's port out of what a service mesh captures: see mesh.py."""

from __future__ import annotations

from spillway_operator.injection.facts import Pod
from spillway_operator.injection.mesh import exclude_port
from spillway_operator.injection.plan import Plan


def mutate(pod: Pod, plan: Plan) -> None:
    """Tell each mesh that was seen."""
    exclude_port(pod, plan.mesh_exclusions, plan.config.http_port)
