"""An API server that lists the pods it is given and whose watches of them go as the test says. Of other kinds nothing happens."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer
from prometheus_client import CollectorRegistry, Counter, Gauge
from spillway_operator.kube.access import Access
from spillway_operator.kube.reader import ApiReader
from spillway_operator.kube.reflector import Event, WatchMetrics

Manifest = dict[str, Any]


def make_object(name: str, *, uid: str = "", version: int = 1, namespace: str = "team-a", **more: Any) -> Manifest:
    metadata = {"name": name, "namespace": namespace, "uid": uid or f"uid-{name}", "resourceVersion": str(version)}
    return {"metadata": metadata, **more}


def line(kind: str, manifest: Any) -> bytes:
    return json.dumps({"type": kind, "object": manifest}).encode() + b"\n"


def bookmark(version: int) -> bytes:
    return line("BOOKMARK", {"metadata": {"resourceVersion": str(version)}})


@dataclass
class Watch:
    """One answer to a watch: these bytes, and then its end, or silence."""

    sent: bytes = b""
    silent: bool = False
    status: int = 200


@dataclass
class ScriptedApi:
    """`watches` are answered in turn, and any further one with silence; so are `lists`, raw, before true ones."""

    objects: list[Manifest] = field(default_factory=list)
    version: int = 10
    watches: list[Watch] = field(default_factory=list)
    lists: list[tuple[int, bytes]] = field(default_factory=list)
    on_list: Callable[[], None] = lambda: None
    asked: list[dict[str, str]] = field(default_factory=list)
    of_other_kinds: dict[str, list[Manifest]] = field(default_factory=dict)
    pauses: list[float] = field(default_factory=list)
    idle: asyncio.Event = field(default_factory=asyncio.Event)
    _closing: asyncio.Event = field(default_factory=asyncio.Event)

    async def sleep(self, seconds: float) -> None:
        """Make the pause that a client wants to make, without its length."""
        self.pauses.append(seconds)
        await asyncio.sleep(0)

    @property
    def listed(self) -> list[dict[str, str]]:
        return [query for query in self.asked if "watch" not in query]

    @property
    def watched_from(self) -> list[str]:
        return [query["resourceVersion"] for query in self.asked if "watch" in query]

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(dict(request.query))
        return await (self._watch(request) if "watch" in request.query else self._list(request))

    async def answer_others(self, request: web.Request) -> web.StreamResponse:
        if "watch" not in request.query:
            items = self.of_other_kinds.get(request.path.rpartition("/")[2], [])
            return web.json_response({"metadata": {"resourceVersion": "10"}, "items": items})
        response = web.StreamResponse()
        await response.prepare(request)
        await self._closing.wait()
        return response

    async def _list(self, request: web.Request) -> web.Response:
        if self.lists:
            status, body = self.lists.pop(0)
            return web.Response(status=status, body=body)
        self.on_list()
        begin, limit = int(request.query.get("continue", 0)), int(request.query["limit"])
        metadata: Manifest = {"resourceVersion": str(self.version)}
        if begin + limit < len(self.objects):
            metadata["continue"] = str(begin + limit)
        return web.json_response({"metadata": metadata, "items": self.objects[begin : begin + limit]})

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        if not self.watches:
            self.idle.set()
        script = self.watches.pop(0) if self.watches else Watch(silent=True)
        response = web.StreamResponse(status=script.status)
        await response.prepare(request)
        if script.sent:
            await response.write(script.sent)
        if script.silent:
            await self._closing.wait()
        return response

    @asynccontextmanager
    async def serve(self, silence_seconds: float = 30.0) -> AsyncIterator[ApiReader]:
        """A reader of this server."""
        application = web.Application()
        application.router.add_get("/api/v1/pods", self.answer)
        application.router.add_get("/{path:.*}", self.answer_others)
        async with TestServer(application) as server:
            access = Access(str(server.make_url("")), ssl.create_default_context(), token=lambda: "")
            async with ApiReader(access, silence_seconds=silence_seconds) as reader:
                yield reader
            self._closing.set()


class Seen:
    """Keeps what a reflector tells, and what is there by that."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str]] = []
        self.there: dict[str, str] = {}
        self.raises_at = ""

    def __call__(self, event: Event) -> None:
        metadata = event["object"]["metadata"]
        self.events.append((event["type"], metadata["name"]))
        if metadata["name"] == self.raises_at:
            raise KeyError("an odd object")
        if event["type"] == "DELETED":
            assert self.there.pop(metadata["name"]) == metadata["uid"]
        else:
            self.there[metadata["name"]] = metadata["uid"]


def make_metrics() -> WatchMetrics:
    registry = CollectorRegistry()
    return WatchMetrics(
        Gauge("objects", "", ["kind"], registry=registry),
        Counter("restarts", "", ["kind"], registry=registry),
        Counter("untaken", "", ["kind"], registry=registry),
    )
