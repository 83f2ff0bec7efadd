"""Inject a sidecar into a pod, or mark the pod with the reason why not. Pure: a new pod is returned."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass

from spillway_operator.api import names
from spillway_operator.injection.decide import decide
from spillway_operator.injection.facts import Facts, Pod, Skip
from spillway_operator.injection.mutators import MUTATORS

# An Event has room for 1024, with what stands around it.
MAX_MESSAGE_CHARACTERS = 800


@dataclass(frozen=True)
class Outcome:
    """The pod as it shall be, and the skip if it was not injected."""

    pod: Pod
    skip: Skip | None = None


def inject(pod: Pod, facts: Facts) -> Outcome:
    """The outcome for `pod`, which is not changed. A pod that already holds a sidecar is returned as it is.

    inject(inject(pod)) == inject(pod): the API server does call twice.
    """
    if is_injected(pod):
        return Outcome(pod)
    plan = decide(pod, facts)
    if isinstance(plan, Skip):
        return Outcome(mark_skipped(pod, plan), plan)
    injected = copy.deepcopy(pod)
    for mutate in MUTATORS:
        mutate(injected, plan)
    return Outcome(injected)


def is_injected(pod: Pod) -> bool:
    """Whether the pod holds our sidecar: the annotation alone may have been copied from another pod."""
    annotated = names.STATUS_ANNOTATION in (pod["metadata"].get("annotations") or {})
    init_containers = pod["spec"].get("initContainers") or []
    return annotated and any(container["name"] == names.SIDECAR_CONTAINER for container in init_containers)


def mark_skipped(pod: Pod, skip: Skip) -> Pod:
    """`pod` with the two annotations that say why it was not injected; nothing else differs."""
    message = skip.message[:MAX_MESSAGE_CHARACTERS]
    return annotate(pod, {names.SKIPPED_ANNOTATION: str(skip.reason), names.SKIPPED_MESSAGE_ANNOTATION: message})


def annotate(pod: Pod, annotations: Mapping[str, str]) -> Pod:
    """`pod` with these annotations beside its own; nothing else differs."""
    metadata = pod["metadata"]
    return {**pod, "metadata": {**metadata, "annotations": {**(metadata.get("annotations") or {}), **annotations}}}
