"""Two hundred pods of one pool at once, and an API server that takes seconds for each question about them."""

from __future__ import annotations

import asyncio
import random
import socket
import ssl
import time
from collections.abc import AsyncIterator
from functools import partial

import pytest
from aiohttp import web
from reviews import make_pod, make_review, patched
from spillway_operator.api import Allowed, names, parse_pool
from spillway_operator.injection import Facts, Pod
from spillway_operator.kube.access import Access
from spillway_operator.kube.reader import ApiReader
from spillway_operator.stalls import watch_stalls
from spillway_operator.webhook.admissible import ASKING_OF_A_NAMESPACE, Turns, find_refusal
from spillway_operator.webhook.metrics import REGISTRY
from spillway_operator.webhook.review import answer
from spillway_operator.webhook.trials import Trials

PODS = 200
BUDGET_SECONDS = 1.5
POOL = parse_pool(
    {
        "metadata": {"name": "chat", "namespace": "team-a", "uid": "3f1c7c58-6f0e-4a58-9c39-5f2f2a6d1b10"},
        "spec": {"tiers": {"dram": {"capacity": "64Mi"}}},
    }
)


class SlowApi:
    """Answers each dry run after 1 to 3 s. Whoever gives up is no longer worked for, as in a real one."""

    def __init__(self) -> None:
        self.asked = self.at_once = self.most_at_once = 0
        self.random = random.Random(1)

    async def create(self, request: web.Request) -> web.Response:
        self.asked += 1
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await request.read()
            await asyncio.sleep(self.random.uniform(1.0, 3.0))
        finally:
            self.at_once -= 1
        return web.json_response({}, status=201)


@pytest.fixture
async def slow() -> SlowApi:
    return SlowApi()


@pytest.fixture
async def api(slow: SlowApi) -> AsyncIterator[ApiReader]:
    application = web.Application()
    application.router.add_post("/api/v1/namespaces/{namespace}/{plural}", slow.create)
    runner = web.AppRunner(application, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    with socket.create_server(("127.0.0.1", 0), backlog=256) as listening:
        await web.SockSite(runner, listening).start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        async with ApiReader(Access(url, ssl.create_default_context(), token=lambda: "")) as reader:
            yield reader
        await runner.cleanup()


def answered(kind: str) -> float:
    return REGISTRY.get_sample_value("spillway_webhook_dry_runs_total", {"answer": kind}) or 0.0


async def test_burst_costs_no_pod_its_time_and_leaves_the_api_server_room(api: ApiReader, slow: SlowApi) -> None:
    async def gather(_namespace: str, _pool: str) -> Facts:
        return Facts(pool=POOL, allowed=Allowed("registry.example/sidecar:1"))

    ask = partial(find_refusal, api, Turns(), budget_seconds=BUDGET_SECONDS)

    async def is_admitted(_namespace: str, _pod: Pod, _spent_seconds: float) -> bool:
        raise AssertionError("asked about a pod that nobody refused")

    pod = make_pod()
    stalls: list[float] = []
    watching = asyncio.create_task(watch_stalls(stalls.append))
    kinds = ("admissible", "undecided", "unasked", "refused")
    before = {kind: answered(kind) for kind in kinds}

    async def admit() -> tuple[float, bool]:
        started = time.monotonic()
        response = (await answer(make_review(pod), gather, ask, is_admitted, Trials()))["response"]
        assert response["allowed"] is True
        return time.monotonic() - started, names.SKIPPED_ANNOTATION in patched(pod, response)["metadata"]["annotations"]

    async with asyncio.TaskGroup() as group:
        admissions = [group.create_task(admit()) for _ in range(PODS)]
    watching.cancel()
    longest = max(seconds for seconds, _ in (admission.result() for admission in admissions))
    # What the loop itself stood still for is the machine's, where 200 reviews share a busy CPU.
    assert longest < BUDGET_SECONDS + 0.5 + sum(stalls)
    assert not any(skipped for _, skipped in (admission.result() for admission in admissions))
    assert slow.most_at_once <= 2 * ASKING_OF_A_NAMESPACE
    came = {kind: answered(kind) - before[kind] for kind in kinds}
    print(
        f"longest {longest:.2f} s, stalls {sum(stalls):.2f} s, {slow.asked} asked, {slow.most_at_once} at once, {came}"
    )
    assert sum(came.values()) == PODS
    assert came["refused"] == 0
    assert came["unasked"] > 0
