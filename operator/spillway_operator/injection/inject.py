"""Inject a sidecar into a pod, or mark the pod with the reason why not. Pure: a new pod is returned."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass

from spillway_operator.api import names
from spillway_operator.injection.decide import decide
from spillway_operator.injection.facts import Facts, Pod, Skip
from spillway_operator.injection.mesh import exclude_port, find_present
from spillway_operator.injection.mutators import MUTATORS

# An Event has room for 1024, with what stands around it.
MAX_MESSAGE_CHARACTERS = 800


@dataclass(frozen=True)
class Outcome:
    """The pod as it shall be, and the skip if it was not injected."""

    pod: Pod
    skip: Skip | None = None


def inject(pod: Pod, facts: Facts) -> Outcome:
    """The outcome for `pod`, which is not changed. A pod that already holds a sidecar is only looked at again (`revisit`).

    inject(inject(pod)) == inject(pod): the API server does call twice.
    """
    if is_injected(pod):
        return Outcome(revisit(pod))
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


def revisit(pod: Pod) -> Pod:
    """An injected pod as it shall be after other webhooks had it: a mesh that came meanwhile leaves the sidecar's port alone.

    The same object where nothing is to be done.
    """
    port = _http_port(pod)
    exclusions = find_present(pod)
    if port is None or not exclusions:
        return pod
    revisited = copy.deepcopy(pod)
    exclude_port(revisited, exclusions, port)
    return pod if revisited == pod else revisited


def _http_port(pod: Pod) -> int | None:
    """The port in our annotation, None where somebody wrote something else there."""
    try:
        port = json.loads(pod["metadata"]["annotations"][names.STATUS_ANNOTATION])["port"]
    except (ValueError, KeyError, TypeError):
        return None
    return port if type(port) is int and 0 < port < 65536 else None


def mark_skipped(pod: Pod, skip: Skip) -> Pod:
    """`pod` with the two annotations that say why it was not injected; nothing else differs."""
    message = skip.message[:MAX_MESSAGE_CHARACTERS]
    return annotate(pod, {names.SKIPPED_ANNOTATION: str(skip.reason), names.SKIPPED_MESSAGE_ANNOTATION: message})


def annotate(pod: Pod, annotations: Mapping[str, str]) -> Pod:
    """`pod` with these annotations beside its own; nothing else differs."""
    metadata = pod["metadata"]
    return {**pod, "metadata": {**metadata, "annotations": {**(metadata.get("annotations") or {}), **annotations}}}
