"""A closed client has nothing in flight: whoever takes the Lease next cannot be overtaken by a write of ours."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from kubernetes.client import Configuration
from spillway_operator import __main__ as process
from spillway_operator.controller.settings import OperatorSettings
from spillway_operator.kube.access import Access
from spillway_operator.kube.client import ApiServer, FieldManager
from spillway_operator.kube.resources import POOLS, Manifest

POOL: Manifest = {"metadata": {"name": "chat", "namespace": "team-a"}}


class SlowWrites:
    """An API server with a Lease, that keeps a PATCH until it is told to answer it, and notes what ended in which order."""

    def __init__(self) -> None:
        self.began, self.goes_on = threading.Event(), threading.Event()
        self.ended: list[str] = []
        self.lease = b""

    @contextmanager
    def serve(self) -> Iterator[Configuration]:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self, body: bytes, status: int = 200) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def do_GET(self) -> None:
                self.answer(outer.lease or b"{}", 200 if outer.lease else 404)

            def do_POST(self) -> None:
                outer.lease = self.rfile.read(int(self.headers["Content-Length"]))
                self.answer(outer.lease, 201)

            def do_PUT(self) -> None:
                outer.lease = self.rfile.read(int(self.headers["Content-Length"]))
                if b'"holderIdentity": ""' in outer.lease:
                    outer.ended.append("lease released")
                self.answer(outer.lease)

            def do_PATCH(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                outer.began.set()
                outer.goes_on.wait(10)
                outer.ended.append("write")
                self.answer(b"{}")

            def log_message(self, *_: object) -> None:
                pass

        with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            configuration = Configuration()
            configuration.host = f"http://127.0.0.1:{server.server_address[1]}"
            configuration.retries = False
            try:
                yield configuration
            finally:
                self.goes_on.set()
                server.shutdown()


def find_port() -> int:
    with socket.create_server(("", 0)) as listening:
        return int(listening.getsockname()[1])


async def write(api: ApiServer, slow: SlowWrites) -> None:
    """Be cancelled with a write in flight."""
    task = asyncio.create_task(api.apply(POOL, POOLS, FieldManager.STATUS))
    await asyncio.to_thread(slow.began.wait, 10)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_close_waits_for_the_write_of_a_task_that_was_cancelled() -> None:
    slow = SlowWrites()
    with slow.serve() as configuration:
        api = ApiServer(configuration)
        await write(api, slow)
        threading.Timer(0.3, slow.goes_on.set).start()
        assert await api.close()
        assert slow.ended == ["write"]


async def test_operator_gives_its_lease_up_after_its_last_write(monkeypatch: pytest.MonkeyPatch) -> None:
    """The operator's own process, stopped by a signal while it writes."""
    slow = SlowWrites()

    class Controller:
        @classmethod
        async def start(cls, api: ApiServer, *_: object) -> Controller:
            cls.api = api
            return cls()

        async def run(self, *_: object) -> None:
            task = asyncio.create_task(write(self.api, slow))
            await asyncio.to_thread(slow.began.wait, 10)
            threading.Timer(0.3, slow.goes_on.set).start()
            os.kill(os.getpid(), signal.SIGTERM)
            await task
            await asyncio.Event().wait()

    async def run_kopf(stop: asyncio.Event) -> None:
        await stop.wait()

    with slow.serve() as configuration:
        monkeypatch.setattr(process, "load_configuration", lambda: configuration)
        monkeypatch.setattr(process, "find_access", lambda: Access(configuration.host, None, lambda: ""))  # type: ignore[arg-type]
        monkeypatch.setattr(process, "Controller", Controller)
        monkeypatch.setattr(process, "_run_kopf", run_kopf)
        # Would end the test's process where the machine is too slow for a Lease.
        monkeypatch.setattr(process, "watch_renewal", lambda _lease: None)
        settings = OperatorSettings(
            namespace="spillway-system", sidecar_image="sidecar:1", control_image="control:1", http_port=find_port()
        )
        assert await process.run(settings) == 0
    assert slow.ended == ["write", "lease released"]
