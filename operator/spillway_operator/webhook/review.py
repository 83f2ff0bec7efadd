"""Answer one AdmissionReview. Never refuses: the worst answer is the pod as it came, with the reason on it."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import structlog

from spillway_operator.api import SkipReason, names
from spillway_operator.injection import (
    Facts,
    Outcome,
    Pod,
    Skip,
    annotate,
    inject,
    is_injected,
    mark_skipped,
    revisit,
    sidecar_unavailable,
    with_assigned_user,
)
from spillway_operator.kube.errors import ApiError
from spillway_operator.webhook.metrics import ERRORS, REVIEW_SECONDS, REVIEWS, SKIPS
from spillway_operator.webhook.patch import build_patch
from spillway_operator.webhook.trials import Trials

# The API server cuts a warning at 256 bytes when several come together.
MAX_WARNING_CHARACTERS = 250

Gather = Callable[[str, str], Awaitable[Facts]]
# (namespace, injected pod, plain pod) -> the API server's words if it refuses the one and not the other.
FindRefusal = Callable[[str, Pod, Pod], Awaitable[str | None]]
# (namespace, injected pod, seconds spent on questions so far) -> whether the API server says that it takes it.
IsAdmitted = Callable[[str, Pod, float], Awaitable[bool]]
Response = dict[str, Any]
log = structlog.get_logger()


class UnreadableReview(ValueError):
    """The request is no AdmissionReview of a pod: there is no uid to answer to."""


class Probed(Outcome):
    """The operator's probe and its answer. A pod's own annotations do not make it one."""


async def answer(
    body: bytes, gather: Gather, find_refusal: FindRefusal, is_admitted: IsAdmitted, trials: Trials
) -> Response:
    """The AdmissionReview that answers `body`. Raises UnreadableReview if that is none."""
    try:
        request = json.loads(body)["request"]
        uid, namespace, pod = request["uid"], request.get("namespace") or "", request["object"]
        dry_run = bool(request.get("dryRun"))
    except (ValueError, KeyError, TypeError) as error:
        ERRORS.labels("unreadable-review").inc()
        raise UnreadableReview(f"the body is no AdmissionReview: {error!r}") from error
    with REVIEW_SECONDS.time():
        ask = partial(_ask, namespace, find_refusal, is_admitted)
        inject_it = partial(_inject, pod, namespace, gather, ask, trials, dry_run=dry_run)
        response = _respond(pod, await _review(pod, namespace, inject_it))
    return {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": {"uid": uid, **response}}


async def _review(pod: Pod, namespace: str, inject_it: Callable[[], Awaitable[Outcome]]) -> Outcome:
    started = time.monotonic()
    try:
        outcome = await inject_it()
    except ApiError as error:
        outcome = _failed(pod, "api-server", str(error))
    except Exception as error:
        log.exception("review failed", namespace=namespace, pod=_pod_name(pod))
        outcome = _failed(pod, "unexpected", repr(error))
    _count(pod, outcome)
    if outcome.skip is not None:
        log.warning(
            "pod starts without a sidecar",
            namespace=namespace,
            pod=_pod_name(pod),
            reason=str(outcome.skip.reason),
            message=outcome.skip.message,
            duration_seconds=round(time.monotonic() - started, 4),
        )
    return outcome


async def _ask(
    namespace: str, find_refusal: FindRefusal, is_admitted: IsAdmitted, pod: Pod, injected: Pod, facts: Facts
) -> Outcome:
    """The injected pod where the API server takes it, with the pool's user or, if not, with one of the cluster's choice."""
    started = time.monotonic()
    words = await find_refusal(namespace, injected, pod)
    if not words:
        return Outcome(injected)
    if (assigned := with_assigned_user(pod, facts)) is not None:
        second = inject(pod, assigned)
        if second.skip is None and await is_admitted(namespace, second.pod, time.monotonic() - started):
            return second
    skip = Skip(SkipReason.NOT_ADMISSIBLE, f"the API server refuses the pod with a sidecar: {words}")
    return Outcome(mark_skipped(pod, skip), skip)


async def _inject(
    pod: Pod,
    namespace: str,
    gather: Gather,
    ask: Callable[[Pod, Pod, Facts], Awaitable[Outcome]],
    trials: Trials,
    *,
    dry_run: bool,
) -> Outcome:
    labels = pod["metadata"].get("labels") or {}
    pool_name = labels.get(names.POOL_LABEL)
    if pool_name is None or labels.get(names.INJECT_LABEL) == "false":
        return Outcome(pod)
    if is_injected(pod):
        return Outcome(revisit(pod))
    facts = await gather(namespace, pool_name)
    if pool_name == names.PROBE_POOL:
        return Probed(annotate(pod, {names.PROBED_ANNOTATION: "true"}))
    outcome = inject(pod, facts)
    if outcome.skip is None:
        outcome = await ask(pod, outcome.pod, facts)
    # Last: a trial that is begun here and ends in another skip would be none.
    if outcome.skip is None and facts.pool is not None and not trials.admits(facts.pool, outcome.pod, dry_run=dry_run):
        assert facts.pool.status.injection is not None
        skip = sidecar_unavailable(facts.pool.status.injection)
        return Outcome(mark_skipped(pod, skip), skip)
    return outcome


def _failed(pod: Pod, kind: str, problem: str) -> Outcome:
    ERRORS.labels(kind).inc()
    skip = Skip(SkipReason.INJECTION_FAILED, problem)
    if _is_pod(pod):
        return Outcome(mark_skipped(pod, skip), skip)
    return Outcome(pod, skip)


def _is_pod(pod: Any) -> bool:
    return isinstance(pod, dict) and all(isinstance(pod.get(part), dict) for part in ("metadata", "spec"))


def _count(pod: Pod, outcome: Outcome) -> None:
    if outcome.skip is not None:
        SKIPS.labels(str(outcome.skip.reason)).inc()
        REVIEWS.labels("skipped").inc()
    elif isinstance(outcome, Probed):
        REVIEWS.labels("probed").inc()
    else:
        # What was injected before is at most told to a mesh.
        REVIEWS.labels("unchanged" if outcome.pod is pod or is_injected(pod) else "injected").inc()


def _respond(pod: Pod, outcome: Outcome) -> Response:
    response: Response = {"allowed": True}
    if outcome.pod is not pod and (operations := build_patch(pod, outcome.pod)):
        patch = json.dumps(operations, separators=(",", ":")).encode()
        response |= {"patchType": "JSONPatch", "patch": base64.b64encode(patch).decode()}
    if outcome.skip is not None:
        warning = f"no Spillway sidecar ({outcome.skip.reason}): {outcome.skip.message}"
        response["warnings"] = [warning[:MAX_WARNING_CHARACTERS]]
    elif isinstance(outcome, Probed):
        # A pod that is refused after us has no annotations to read; its warnings are sent all the same.
        response["warnings"] = [names.PROBE_ANSWER]
    return response


def _pod_name(pod: Any) -> str:
    metadata = pod.get("metadata") if isinstance(pod, dict) else None
    return str((metadata or {}).get("name") or (metadata or {}).get("generateName") or "")
