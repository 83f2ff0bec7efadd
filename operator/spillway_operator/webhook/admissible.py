"""Would the API server take the injected pod where it takes the plain one? It is asked by dry runs; nothing is stored.

No list of rules is complete: quotas, LimitRanges of any resource, Pod Security by cluster-wide default, SCCs and policies of third
parties all speak at creation. So they are asked. What counts is the difference: a pod that is refused without us is refused with us as
well, whoever asks, and an account of ours may be refused what the pod's own creator is not.

Source: "Dry-run" of the Kubernetes API concepts; admission, validation and quota take part, and nothing is charged to a quota.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from weakref import WeakValueDictionary

from spillway_operator.api import names
from spillway_operator.injection import Pod
from spillway_operator.kube.errors import ApiError
from spillway_operator.kube.reader import ApiReader
from spillway_operator.kube.resources import CLAIMS, PODS, Manifest, Resource
from spillway_operator.webhook.metrics import DRY_RUN_SECONDS, DRY_RUNS

# All dry runs of a review together, of the time that the API server waits for the webhook; reads may have taken another three fifths.
BUDGET_SHARE = 0.3
# Reviews that may ask at one time, each with two questions at most. A rollout creates hundreds of pods in a second: a slow API server
# is not asked about all of them at once, and of the connections (64) enough are left for reads and watches.
ASKING_REVIEWS = 16
# Of them those of one namespace: its own slow webhooks must not cost other namespaces their answer.
ASKING_OF_A_NAMESPACE = 8
# The API server cuts what it is asked to generate a name from.
_LONGEST_PREFIX = 58
# What a stored object has and a new one must not, or need not.
_STORED = ("uid", "resourceVersion", "creationTimestamp", "managedFields", "selfLink", "generation")


class Turns:
    """Whose review may ask: a namespace's turn first, so that whoever waits for it holds nobody else's."""

    def __init__(self) -> None:
        self._all = asyncio.Semaphore(ASKING_REVIEWS)
        # Kept by who asks or waits.
        self._of: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    @asynccontextmanager
    async def of(self, namespace: str) -> AsyncIterator[None]:
        """A turn, for as long as the context."""
        own = self._of.get(namespace)
        if own is None:
            self._of[namespace] = own = asyncio.Semaphore(ASKING_OF_A_NAMESPACE)
        async with own, self._all:
            yield


async def find_refusal(
    api: ApiReader, turns: Turns, namespace: str, injected: Pod, plain: Pod, *, budget_seconds: float
) -> str | None:
    """The API server's own words where it refuses `injected`, or a claim that it brings, and not `plain`; else None.

    None also where it cannot be told within the budget, of which the wait for a turn is a part: an API server that
    has no time to answer has no time for every pod to be held up, and the static rules have been asked.
    """
    started = time.monotonic()
    answer = "unasked"
    try:
        async with asyncio.timeout(budget_seconds), turns.of(namespace):
            answer = "undecided"
            refusal = await _difference(api, namespace, injected, plain)
    except (ApiError, TimeoutError):
        DRY_RUNS.labels(answer).inc()
        return None
    finally:
        DRY_RUN_SECONDS.observe(time.monotonic() - started)
    DRY_RUNS.labels("admissible" if refusal is None else "refused").inc()
    return refusal


async def is_admitted(api: ApiReader, turns: Turns, namespace: str, injected: Pod, *, budget_seconds: float) -> bool:
    """Whether the API server takes `injected` and the claims that it brings. What it does not say in time is no."""
    try:
        async with asyncio.timeout(budget_seconds), turns.of(namespace):
            return not any(answer is not None for _, answer in await _ask(api, namespace, injected))
    except (ApiError, TimeoutError):
        return False


async def _difference(api: ApiReader, namespace: str, injected: Pod, plain: Pod) -> str | None:
    refused = [(kind, words) for kind, words in await _ask(api, namespace, injected) if words is not None]
    for kind, words in refused:
        if kind is CLAIMS:
            return words
        if await api.dry_run(PODS, namespace, _new(_left_alone(plain), namespace)) is None:
            return words
    if refused:
        raise ApiError(
            0, "POST", PODS.path(namespace), "the pod is refused without Spillway as well, to this account at least"
        )
    return None


async def _ask(api: ApiReader, namespace: str, injected: Pod) -> list[tuple[Resource, str | None]]:
    """For the pod and each claim that it brings: the API server's words where it refuses it."""
    claims = [_claim_of(injected, volume) for volume in injected["spec"].get("volumes") or [] if _is_our_claim(volume)]
    asked = [(PODS, _new(injected, namespace)), *((CLAIMS, _new(claim, namespace)) for claim in claims)]
    answers = await asyncio.gather(*(api.dry_run(kind, namespace, one) for kind, one in asked))
    return [(kind, words) for (kind, _), words in zip(asked, answers, strict=True)]


def _is_our_claim(volume: Manifest) -> bool:
    return str(volume["name"]).startswith(names.VOLUME_PREFIX) and "ephemeral" in volume


def _claim_of(pod: Pod, volume: Manifest) -> Manifest:
    """The claim that a controller makes of the volume once the pod is there, when nobody can take the pod back."""
    template = volume["ephemeral"]["volumeClaimTemplate"]
    # The API server names the pod later; of a claim's name nothing but its length is judged.
    owner = pod["metadata"].get("name") or f"{pod['metadata'].get('generateName', '')[:_LONGEST_PREFIX]}xxxxx"
    return {
        "metadata": {**(template.get("metadata") or {}), "name": f"{owner}-{volume['name']}"},
        "spec": template["spec"],
    }


def _left_alone(plain: Pod) -> Pod:
    """`plain` as the webhook is not asked about: it would inject it."""
    metadata = plain["metadata"]
    labels = {**(metadata.get("labels") or {}), names.INJECT_LABEL: "false"}
    return {**plain, "metadata": {**metadata, "labels": labels}}


def _new(manifest: Manifest, namespace: str) -> Manifest:
    metadata = {key: value for key, value in manifest["metadata"].items() if key not in _STORED}
    return {"metadata": {**metadata, "namespace": namespace}, "spec": manifest["spec"]}
