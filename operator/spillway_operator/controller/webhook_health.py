"""Whether labelled pods are injected: the webhook's configuration and replicas are looked at, and then it is tried.

Everything between the API server and the webhook may be broken while each part looks sound: a Service's port, a CA, a network policy,
a namespace that the configuration leaves out. So a pod is created as a dry run in the pools' own namespaces, and the webhook says on it
that it was called. Without it labelled pods start without a sidecar, by design; InjectionReady of the pools says so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import structlog

from spillway_operator.api import names
from spillway_operator.controller.inject_tokens import called_word
from spillway_operator.kube.client import ApiServer, DryRun
from spillway_operator.kube.errors import ApiError
from spillway_operator.kube.resources import ENDPOINT_SLICES, PODS, WEBHOOK_CONFIGURATIONS, Manifest
from spillway_operator.resources.probe_pod import build_probe_pod

LOOK_EVERY_SECONDS = 10.0
# Of the pools' namespaces, in turn. Where one gives another answer than before, all are asked again.
PROBES_PER_LOOK = 4

log = structlog.get_logger()


@dataclass
class WebhookHealth:
    """The last look at the webhook. `problem` is what all namespaces have; empty while there is none, and before the first look."""

    api: ApiServer
    namespace: str
    service: str
    configuration: str
    image: str
    find_namespaces: Callable[[], Iterable[str]]
    on_change: Callable[[], None]
    problem: str = field(default="", init=False)
    # By namespace, the one that was asked last at the end; empty where the webhook was called.
    _answers: dict[str, str] = field(default_factory=dict, init=False)

    async def run(self) -> None:
        """Look until cancelled; call `on_change` whenever the answer changed."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK_EVERY_SECONDS)

    async def look(self) -> None:
        """Look once. An API server that does not answer leaves the last answer as it is."""
        try:
            problem = await self._find_problem()
        except ApiError as error:
            log.warning("webhook could not be looked at", reason=str(error))
            return
        if problem != self.problem:
            self.problem = problem
            self._answers.clear()
            if problem:
                log.warning("webhook does not serve, labelled pods start without a sidecar", reason=problem)
            else:
                log.info("webhook serves")
            self.on_change()
        elif not problem:
            await self._probe_next()

    async def problem_in(self, namespace: str) -> str:
        """Why labelled pods of a namespace start without a sidecar, empty if they do not. Asks, where that is not known yet."""
        if not self.problem and namespace not in self._answers:
            await self._probe(namespace)
        return self.problem or self._answers.get(namespace, "")

    def count_problems(self) -> int:
        """Namespaces of pools in which the webhook is not called, 1 where it serves none. By the last answers."""
        return 1 if self.problem else sum(bool(answer) for answer in self._answers.values())

    async def _probe_next(self) -> None:
        wanted = set(self.find_namespaces())
        for namespace in [known for known in self._answers if known not in wanted]:
            del self._answers[namespace]
        for namespace in list(self._answers)[:PROBES_PER_LOOK]:
            before = self._answers[namespace]
            await self._probe(namespace)
            if self._answers.get(namespace) != before:
                self._answers = {namespace: self._answers[namespace]}
                self.on_change()
                return

    async def _probe(self, namespace: str) -> None:
        try:
            answer = _read_answer(await self.api.dry_run(build_probe_pod(namespace, self.image), PODS), namespace)
        except ApiError as error:
            log.warning("webhook could not be tried", namespace=namespace, reason=str(error))
            answer = None
        before = self._answers.pop(namespace, "")
        self._answers[namespace] = before if answer is None else answer
        if answer and answer != before:
            log.warning(
                "webhook is not called, labelled pods start without a sidecar", namespace=namespace, reason=answer
            )

    async def _find_problem(self) -> str:
        configuration = await self.api.get(WEBHOOK_CONFIGURATIONS, self.configuration)
        if configuration is None:
            return f"MutatingWebhookConfiguration {self.configuration} does not exist; install the chart again"
        webhooks = configuration.get("webhooks") or []
        if not webhooks or not all((w.get("clientConfig") or {}).get("caBundle") for w in webhooks):
            return f"MutatingWebhookConfiguration {self.configuration} has no caBundle yet"
        if not all(called_word(w["clientConfig"].get("service", {}).get("path")) for w in webhooks):
            return f"MutatingWebhookConfiguration {self.configuration} has no path with a token yet"
        selector = f"kubernetes.io/service-name={self.service}"
        slices = await self.api.list(ENDPOINT_SLICES, self.namespace, label_selector=selector)
        if not any(_has_ready_endpoint(part) for part in slices):
            return f"Service {self.namespace}/{self.service} has no ready replica"
        return ""


def _read_answer(answer: DryRun, namespace: str) -> str | None:
    """Empty where the webhook was called, None where that cannot be told: the pod was refused, maybe before its turn."""
    if names.PROBE_ANSWER in answer.warnings:
        return ""
    if answer.created is None:
        return None
    annotations = answer.created["metadata"].get("annotations") or {}
    if names.PROBED_ANNOTATION in annotations:
        return ""
    if names.SKIPPED_ANNOTATION in annotations:
        words = annotations.get(names.SKIPPED_MESSAGE_ANNOTATION, "")
        return f"the webhook cannot inject ({annotations[names.SKIPPED_ANNOTATION]}: {words})"
    return (
        f"a pod of namespace {namespace} was created on trial and the webhook was not called, or gave no answer in time: "
        "see its excluded namespaces, Service, network policies and certificate"
    )


def _has_ready_endpoint(endpoint_slice: Manifest) -> bool:
    endpoints = endpoint_slice.get("endpoints") or []
    return any((endpoint.get("conditions") or {}).get("ready") for endpoint in endpoints)
