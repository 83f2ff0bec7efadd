"""The native sidecar `spillway`. It has no probes: nothing but its image and volumes may hold the engine up."""

from __future__ import annotations

from typing import Any

from spillway.config import CONFIG_ENV

from spillway_operator.api import names
from spillway_operator.injection.facts import Container, Pod
from spillway_operator.injection.mutators.volumes import no_token
from spillway_operator.injection.plan import Plan
from spillway_operator.injection.security import build_security_context

_DOWNWARD = (
    ("POD_NAME", "metadata.name"),
    ("POD_NAMESPACE", "metadata.namespace"),
    ("POD_UID", "metadata.uid"),
    ("NODE_NAME", "spec.nodeName"),
)


def mutate(pod: Pod, plan: Plan) -> None:
    """Append the container after `spillway-client`."""
    container: Container = {
        "name": names.SIDECAR_CONTAINER,
        "image": plan.image,
        "imagePullPolicy": plan.pull_policy,
        "restartPolicy": "Always",
        "env": [{"name": CONFIG_ENV, "value": plan.config.render()}, *map(_downward, _DOWNWARD)],
        "resources": plan.sizing.render(),
        "securityContext": build_security_context(plan),
        "volumeMounts": _build_mounts(plan),
    }
    if not pod["spec"].get("hostNetwork"):
        # With the node's network a declared port would keep a second pod off the node.
        container["ports"] = [{"name": "spillway", "containerPort": plan.config.http_port, "protocol": "TCP"}]
    pod["spec"].setdefault("initContainers", []).append(container)


def _downward(field: tuple[str, str]) -> dict[str, Any]:
    name, path = field
    return {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}


def _build_mounts(plan: Plan) -> list[dict[str, Any]]:
    mounts: list[dict[str, Any]] = [
        {"name": names.ARENA_VOLUME, "mountPath": names.ARENA_PATH},
        {"name": names.INDEX_VOLUME, "mountPath": names.INDEX_PATH},
        {"name": names.RUN_VOLUME, "mountPath": names.RUN_PATH},
        {"name": names.CONFIG_VOLUME, "mountPath": names.CONFIG_PATH, "readOnly": True},
    ]
    if plan.nvme is not None:
        mounts.append({"name": names.NVME_VOLUME, "mountPath": names.NVME_PATH})
    return [*mounts, no_token()]
