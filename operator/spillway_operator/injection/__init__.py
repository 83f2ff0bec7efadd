"""Injection: a pod and what is known of the cluster in, a pod with a sidecar or a reason out. Pure, no I/O.

`decide` is a chain of checks, `mutators` one file per concern, `inject` puts the two together. A new rule is one function
and one line in a list.
"""

from spillway_operator.injection.assigned_user import UID_RANGE_ANNOTATION, with_assigned_user
from spillway_operator.injection.decide import sidecar_unavailable
from spillway_operator.injection.facts import Facts, Pod, Skip
from spillway_operator.injection.inject import (
    MAX_MESSAGE_CHARACTERS,
    Outcome,
    annotate,
    inject,
    is_injected,
    mark_skipped,
    revisit,
)
from spillway_operator.injection.mesh import MESH_ANNOTATIONS
from spillway_operator.injection.revision import build_sidecar_config, pool_revision

# Of a namespace's annotations, which may be long, these count.
NAMESPACE_ANNOTATIONS = (*MESH_ANNOTATIONS, UID_RANGE_ANNOTATION)

__all__ = [
    "MAX_MESSAGE_CHARACTERS",
    "NAMESPACE_ANNOTATIONS",
    "Facts",
    "Outcome",
    "Pod",
    "Skip",
    "annotate",
    "build_sidecar_config",
    "inject",
    "is_injected",
    "mark_skipped",
    "pool_revision",
    "revisit",
    "sidecar_unavailable",
    "with_assigned_user",
]
