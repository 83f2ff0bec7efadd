"""The two listeners: /inject over TLS for the API server, /healthz, /readyz and /metrics in plain HTTP for everybody else.

What /inject answers holds a pool's uid and paths, so it answers whoever knows the token that only the API server is told.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
from collections.abc import AsyncIterator
from functools import partial

import structlog
from aiohttp import web
from prometheus_client.aiohttp import make_aiohttp_handler

from spillway_operator.api.names import INJECT_PATH
from spillway_operator.kube.access import Access
from spillway_operator.kube.reader import ApiReader
from spillway_operator.webhook.admissible import BUDGET_SHARE
from spillway_operator.webhook.cluster import Cluster
from spillway_operator.webhook.files import POLL_SECONDS, InjectTokens, ServingCertificate, StatusKeys, poll
from spillway_operator.webhook.metrics import REGISTRY, STRANGERS
from spillway_operator.webhook.review import UnreadableReview, answer
from spillway_operator.webhook.settings import WebhookSettings
from spillway_operator.webhook.trials import Trials

# A pod may be 1.5 MiB in etcd; a review holds it once.
MAX_REVIEW_BYTES = 4 * 1024 * 1024
CERTIFICATE_WAIT_SECONDS = 1.0
# The chart allows no more for a webhook's answer.
LONGEST_PATIENCE_SECONDS = 5.0

log = structlog.get_logger()


class Server:
    """The running webhook: where it listens and what it knows."""

    def __init__(self, cluster: Cluster, certificate: ServingCertificate, tokens: InjectTokens) -> None:
        self._cluster = cluster
        self._certificate = certificate
        self._tokens = tokens
        self._trials = Trials()

    @property
    def ready(self) -> bool:
        """Whether it can answer as well as it ever will."""
        return self._cluster.ready and self._certificate.loaded and self._tokens.loaded

    def build_admission(self) -> web.Application:
        """The application behind TLS."""
        application = web.Application(client_max_size=MAX_REVIEW_BYTES)
        application.router.add_post(f"{INJECT_PATH}/{{token}}", self._inject)
        return application

    def build_observation(self) -> web.Application:
        """The application in plain HTTP; it shows nothing secret."""
        application = web.Application()
        application.router.add_get("/healthz", self._healthz)
        application.router.add_get("/readyz", self._readyz)
        application.router.add_get("/metrics", make_aiohttp_handler(REGISTRY))
        return application

    async def _inject(self, request: web.Request) -> web.Response:
        if not self._tokens.admits(request.match_info["token"]):
            STRANGERS.inc()
            raise web.HTTPNotFound
        budget_seconds = BUDGET_SHARE * _patience_seconds(request)
        find_refusal = partial(self._cluster.find_refusal, budget_seconds=budget_seconds)
        is_admitted = partial(self._cluster.is_admitted, budget_seconds=budget_seconds)
        try:
            body = await request.read()
            return web.json_response(await answer(body, self._cluster.gather, find_refusal, is_admitted, self._trials))
        except UnreadableReview as error:
            return web.json_response({"error": str(error)}, status=400)

    async def _healthz(self, request: web.Request) -> web.Response:
        return web.Response(text="ok")

    async def _readyz(self, request: web.Request) -> web.Response:
        if self.ready:
            return web.Response(text="ok")
        return web.Response(text="caches, certificate, tokens or keys missing", status=503)


def _patience_seconds(request: web.Request) -> float:
    """How long the API server waits for this answer: it says so in the query, as Go writes durations."""
    told = re.fullmatch(r"([0-9]{1,2})s", request.query.get("timeout", ""))
    return float(told[1]) if told else LONGEST_PATIENCE_SECONDS


@contextlib.asynccontextmanager
async def serve(
    settings: WebhookSettings, access: Access, *, poll_seconds: float = POLL_SECONDS
) -> AsyncIterator[tuple[int, int]]:
    """Run the webhook for the length of the context; gives the ports of HTTPS and HTTP.

    `poll_seconds` is how often mounted files are looked at.
    """
    certificate, keys = ServingCertificate(settings.tls_dir), StatusKeys(settings.status_keys_dir)
    tokens = InjectTokens(settings.tls_dir)
    if settings.client_ca_file is not None:
        certificate.demand_clients_of(settings.client_ca_file)
    async with ApiReader(access) as api, asyncio.TaskGroup() as tasks:
        cluster = Cluster(api, settings, keys)
        server = Server(cluster, certificate, tokens)
        background = [
            tasks.create_task(cluster.follow()),
            tasks.create_task(poll(certificate.refresh, tokens.refresh, keys.refresh, seconds=poll_seconds)),
        ]
        async with contextlib.AsyncExitStack() as stack:
            http_port = await _listen(stack, server.build_observation(), settings.http_port)
            while not certificate.loaded:
                await asyncio.sleep(CERTIFICATE_WAIT_SECONDS)
                certificate.refresh()
            tokens.refresh()
            port = await _listen(stack, server.build_admission(), settings.port, certificate)
            log.info("webhook serves", port=port, http_port=http_port)
            yield port, http_port
        for task in background:
            task.cancel()


async def _listen(
    stack: contextlib.AsyncExitStack,
    application: web.Application,
    port: int,
    certificate: ServingCertificate | None = None,
) -> int:
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=10.0)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    listening = _bind(port)
    await web.SockSite(runner, listening, ssl_context=certificate.context if certificate else None).start()
    return int(listening.getsockname()[1])


def _bind(port: int) -> socket.socket:
    """One socket for both families, so that port 0 is one port."""
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=128)
    return socket.create_server(("", port), backlog=128)
