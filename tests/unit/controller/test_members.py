"""Reading sidecars over real HTTP, on a loopback address of the test's own."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import aiohttp
import jwt
import pytest
from aiohttp import web
from controller_builders import make_pod
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from spillway.config import HTTP_PORT
from spillway_operator.controller.members import MAX_REPORT_BYTES, MemberReader, read_member
from spillway_operator.controller.observed import PodView, PoolKey
from spillway_operator.controller.roster import Roster
from spillway_operator.controller.status_keys import TOKEN_SECONDS, StatusSigner

ADDRESS = "127.84.9.46"
SIGNER = StatusSigner(Ed25519PrivateKey.generate())
POD = replace(make_pod(), ip=ADDRESS)
REPORT = {
    "tiers": [{"name": "dram", "capacity_bytes": 1024, "used_bytes": 512, "chunks": 1}],
    "conditions": [{"type": "StorageProvisioned", "reason": "VolumeTooSmall", "message": "why"}],
    "engines_attached": 1, "engines_attached_ever": 2, "a field of a newer sidecar": True,
}  # fmt: skip

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def sidecar(answer: Handler) -> AsyncIterator[None]:
    application = web.Application()
    application.router.add_get("/status", answer)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, ADDRESS, HTTP_PORT).start()
    try:
        yield
    finally:
        await runner.cleanup()


async def honest(request: web.Request) -> web.Response:
    """Checks the token as the daemon does."""
    token = request.headers["Authorization"].removeprefix("Bearer ")
    claims = jwt.decode(token, SIGNER.private_key.public_key(), algorithms=["EdDSA"], audience=POD.uid)
    assert claims["exp"] - claims["nbf"] <= TOKEN_SECONDS
    return web.json_response(REPORT)


async def read(pod: PodView = POD) -> object:
    timeout = aiohttp.ClientTimeout(total=1)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        return await read_member(session, pod, SIGNER)


async def test_a_report_is_read_with_a_token_for_that_pod() -> None:
    async with sidecar(honest):
        report = await read()
    assert report is not None
    assert report.tiers[0].used_bytes == 512  # type: ignore[attr-defined]
    assert report.conditions[0].reason == "VolumeTooSmall"  # type: ignore[attr-defined]


async def refusing(_request: web.Request) -> web.Response:
    return web.json_response(REPORT, status=401)


async def babbling(_request: web.Request) -> web.Response:
    return web.Response(text="<html>")


async def endless(_request: web.Request) -> web.Response:
    return web.Response(body=json.dumps(REPORT).encode() + b" " * MAX_REPORT_BYTES)


async def redirecting(_request: web.Request) -> web.Response:
    raise web.HTTPFound("http://127.0.0.1/status")


@pytest.mark.parametrize("answer", [refusing, babbling, endless, redirecting])
async def test_an_answer_of_no_use_is_no_report(answer: Handler) -> None:
    async with sidecar(answer):
        assert await read() is None


async def test_nobody_there_is_no_report() -> None:
    assert await read() is None


async def test_the_reader_tells_once_and_keeps_the_last_report() -> None:
    told: asyncio.Queue[PoolKey] = asyncio.Queue()
    reader = MemberReader(SIGNER, roster(POD), told.put_nowait)
    async with sidecar(honest), asyncio.timeout(5):
        task = asyncio.create_task(reader.run())
        assert await told.get() == PoolKey("team-a", "chat")
        observation = reader.observation(POD.uid)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert observation is not None
    assert observation.report.engines_attached_ever == 2


def test_a_token_is_worth_nothing_at_another_pod() -> None:
    with pytest.raises(jwt.InvalidAudienceError):
        jwt.decode(SIGNER.sign("uid-other"), SIGNER.private_key.public_key(), algorithms=["EdDSA"], audience=POD.uid)


def roster(*pods: PodView) -> Roster[PodView]:
    made: Roster[PodView] = Roster()
    for pod in pods:
        made.put(pod.uid, pod)
    return made


def test_new_pods_are_read_at_the_bounded_rate_and_old_ones_in_turn() -> None:
    pods = roster(*(make_pod(f"p{n}") for n in range(1500)))
    reader = MemberReader(SIGNER, pods, lambda _key: None)
    taken = [reader._take_due(float(second)) for second in range(10)]
    assert [len(due) for due in taken] == [150] * 10, "all of them at once would time out waiting for a connection"
    assert {uid for due in taken for uid in due} == {f"uid-p{n}" for n in range(1500)}
    gone = taken[0][0]
    pods.drop(gone)
    again = [uid for second in range(10, 24) for uid in reader._take_due(float(second))]
    assert gone not in again
    assert set(again) == {f"uid-p{n}" for n in range(1500)} - {gone}
    pods.put("uid-new", make_pod("new"))
    assert "uid-new" in reader._take_due(24.0)
