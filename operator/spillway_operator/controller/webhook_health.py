"""Whether the API server can reach the webhook: its configuration trusts it and a replica is ready.

Without it labelled pods start without a sidecar, by design; InjectionReady of every pool says so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

import structlog

from spillway_operator.controller.client import (
    ENDPOINT_SLICES,
    WEBHOOK_CONFIGURATIONS,
    ApiError,
    ApiServer,
    Manifest,
)
from spillway_operator.controller.inject_tokens import called_word

LOOK_EVERY_SECONDS = 10.0

log = structlog.get_logger()


@dataclass
class WebhookHealth:
    """The last look at the webhook. `problem` is empty while it serves, and before the first look."""

    api: ApiServer
    namespace: str
    service: str
    configuration: str
    on_change: Callable[[], None]
    problem: str = field(default="", init=False)

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
        if problem == self.problem:
            return
        self.problem = problem
        if problem:
            log.warning("webhook does not serve, labelled pods start without a sidecar", reason=problem)
        else:
            log.info("webhook serves")
        self.on_change()

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


def _has_ready_endpoint(endpoint_slice: Manifest) -> bool:
    endpoints = endpoint_slice.get("endpoints") or []
    return any((endpoint.get("conditions") or {}).get("ready") for endpoint in endpoints)
