"""/healthz, /metrics and /status on a thread of their own: they see snapshots, never the plane."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from spillway.daemon.metrics import SidecarCollector
from spillway.daemon.snapshot import Exchange, Snapshot
from spillway.daemon.tokens import find_refusal
from spillway.status import SidecarStatus

POD_UID_ENV = "POD_UID"


@dataclass(frozen=True)
class Served:
    """What the server shows: where snapshots come from, how one becomes a status, who may ask for it."""

    exchange: Exchange
    build_status: Callable[[Snapshot], SidecarStatus] | None = None
    public_keys: tuple[str, ...] = ()
    registry: CollectorRegistry = field(default_factory=lambda: CollectorRegistry(auto_describe=False))


def try_serve(port: int, served: Served) -> str | None:
    """Serve on a daemon thread; the reason where the port cannot be bound (with hostNetwork somebody may have it)."""
    served.registry.register(SidecarCollector(served.exchange.get))
    outcome: list[str | None] = []
    known = threading.Event()

    def run() -> None:
        loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
        try:
            loop.run_until_complete(_start(port, served))
        except OSError as error:
            outcome.append(
                f"port {port} cannot be bound ({error.strerror}): free it, nothing else of the sidecar needs it"
            )
            known.set()
            return
        outcome.append(None)
        known.set()
        loop.run_forever()

    threading.Thread(target=run, name="http", daemon=True).start()
    known.wait()
    return outcome[0]


async def _start(port: int, served: Served) -> None:
    application = web.Application()
    application.add_routes(
        [
            web.get("/healthz", lambda _request: _healthz(served)),
            web.get("/metrics", lambda _request: _metrics(served)),
            web.get("/status", lambda request: _status(request, served)),
        ]
    )
    runner = web.AppRunner(application, access_log=None, handle_signals=False)
    await runner.setup()
    await web.SockSite(runner, listen(port)).start()


def listen(port: int) -> socket.socket:
    """Every address of the pod, of both families where the kernel has both. Raises OSError."""
    if socket.has_dualstack_ipv6():
        try:
            return socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise
    # IPv6 is compiled in and switched off.
    return socket.create_server(("0.0.0.0", port))


async def _healthz(served: Served) -> web.Response:
    """200 as long as HTTP answers: a fault of a tier is no reason to end the sidecar."""
    seen = await asyncio.to_thread(served.exchange.get)
    return web.json_response({"state": seen.state, "conditions": [c.model_dump() for c in seen.conditions]})


async def _metrics(served: Served) -> web.Response:
    body = await asyncio.to_thread(generate_latest, served.registry)
    return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_LATEST})


async def _status(request: web.Request, served: Served) -> web.Response:
    refusal = find_refusal(request.headers.get("Authorization"), served.public_keys, os.environ.get(POD_UID_ENV, ""))
    if refusal is not None:
        return web.json_response({"reason": refusal}, status=401)
    if served.build_status is None:
        return web.json_response({"reason": "the configuration could not be read; see /healthz"}, status=503)
    seen = await asyncio.to_thread(served.exchange.get)
    return web.Response(text=served.build_status(seen).model_dump_json(), content_type="application/json")
