"""What the engine's container sees of Spillway: it may write the arena and the control files, never index or client."""

from __future__ import annotations

from spillway_operator.api import names
from spillway_operator.injection.facts import Pod
from spillway_operator.injection.plan import Plan


def mutate(pod: Pod, plan: Plan) -> None:
    """Append the mounts after the user's."""
    plan.engine(pod).setdefault("volumeMounts", []).extend(
        [
            {"name": names.ARENA_VOLUME, "mountPath": names.ARENA_PATH},
            {"name": names.INDEX_VOLUME, "mountPath": names.INDEX_PATH, "readOnly": True},
            {"name": names.RUN_VOLUME, "mountPath": names.RUN_PATH},
            {"name": names.CLIENT_VOLUME, "mountPath": names.CLIENT_PATH, "readOnly": True},
        ]
    )
