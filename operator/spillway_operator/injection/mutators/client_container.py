"""The init container `spillway-client`: fills the client's folder once, after the user's own init containers."""

from __future__ import annotations

from spillway_operator.api import names
from spillway_operator.injection.facts import Pod
from spillway_operator.injection.mutators.volumes import no_token
from spillway_operator.injection.plan import Plan
from spillway_operator.injection.security import build_security_context
from spillway_operator.injection.sizing import CLIENT_SIZING


def mutate(pod: Pod, plan: Plan) -> None:
    """Append the container."""
    pod["spec"].setdefault("initContainers", []).append(
        {
            "name": names.CLIENT_CONTAINER,
            "image": plan.image,
            "imagePullPolicy": plan.pull_policy,
            "command": list(names.CLIENT_INSTALL_COMMAND),
            "resources": CLIENT_SIZING.render(),
            "securityContext": build_security_context(plan),
            "volumeMounts": [{"name": names.CLIENT_VOLUME, "mountPath": names.CLIENT_PATH}, no_token()],
        }
    )
