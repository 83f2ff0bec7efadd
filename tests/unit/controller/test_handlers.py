"""kopf is started and ended as the operator does it; it watches nothing and writes nothing."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import kopf
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from spillway_operator import handlers


async def test_kopf_starts_and_ends_and_only_asks_which_kinds_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str]] = []

    async def discover(request: web.Request) -> web.Response:
        asked.append((request.method, request.path_qs))
        return web.json_response({"versions": ["v1"], "groups": [], "resources": []})

    application = web.Application()
    application.router.add_route("*", "/{path:.*}", discover)
    async with TestServer(application) as server:
        kubeconfig = {
            "clusters": [{"name": "c", "cluster": {"server": str(server.make_url(""))}}],
            "users": [{"name": "u", "user": {}}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "x",
        }
        (tmp_path / "config").write_text(json.dumps(kubeconfig))
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
        ready, stop = asyncio.Event(), asyncio.Event()
        running = asyncio.create_task(
            kopf.operator(
                registry=handlers.registry,
                identity="spillway-operator",  # type: ignore[arg-type]
                clusterwide=True,
                standalone=True,
                ready_flag=ready,
                stop_flag=stop,
            )
        )
        async with asyncio.timeout(20):
            await ready.wait()
            while ("GET", "/apis") not in asked:
                await asyncio.sleep(0.01)
        assert not running.done()
        stop.set()
        await asyncio.wait_for(running, 20)
    assert all(method == "GET" and "watch" not in path for method, path in asked), asked
