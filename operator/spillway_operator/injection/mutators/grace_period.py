"""Leave the sidecar time to flush: it is told to end only after the engine has, out of the same grace period."""

from __future__ import annotations

from spillway.config import FLUSH_SECONDS

from spillway_operator.injection.facts import Pod
from spillway_operator.injection.plan import Plan

# What Kubernetes gives a pod that asks for nothing.
DEFAULT_GRACE_SECONDS = 30


def mutate(pod: Pod, plan: Plan) -> None:
    """Set the grace period to the user's, at least 30 s, and the flush."""
    theirs = pod["spec"].get("terminationGracePeriodSeconds")
    grace_seconds = max(DEFAULT_GRACE_SECONDS, theirs if theirs is not None else 0)
    pod["spec"]["terminationGracePeriodSeconds"] = grace_seconds + FLUSH_SECONDS
