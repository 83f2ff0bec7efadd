"""The difference that Spillway makes to an API server's verdict, with answers that no real one gives when asked to."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from reviews import make_pod
from spillway_operator.api import Allowed, names, parse_pool
from spillway_operator.injection import Facts, Pod, inject
from spillway_operator.kube.access import Access
from spillway_operator.kube.reader import ApiReader
from spillway_operator.webhook.admissible import ASKING_OF_A_NAMESPACE, Turns, find_refusal, is_admitted
from spillway_operator.webhook.metrics import REGISTRY

NAMESPACE = "team-a"
Answer = tuple[int, str]
TAKEN: Answer = (201, "")


class Verdicts:
    """An API server that answers creations as the test says, and keeps what it was asked."""

    def __init__(self) -> None:
        self.injected: Answer = TAKEN
        self.plain: Answer = TAKEN
        self.claim: Answer = TAKEN
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.stands_still = asyncio.Event()
        self.stands_still.set()

    async def create(self, request: web.Request) -> web.Response:
        assert request.query["dryRun"] == "All"
        body = await request.json()
        self.asked.append((request.path, body))
        await self.stands_still.wait()
        if request.path.endswith("/persistentvolumeclaims"):
            status, message = self.claim
        elif any(c["name"] == names.SIDECAR_CONTAINER for c in body["spec"].get("initContainers", [])):
            status, message = self.injected
        else:
            assert body["metadata"]["labels"][names.INJECT_LABEL] == "false"  # or it would be injected
            status, message = self.plain
        return web.json_response({"kind": "Status", "message": message}, status=status)


@pytest.fixture
async def verdicts() -> Verdicts:
    return Verdicts()


@pytest.fixture
async def api(verdicts: Verdicts) -> AsyncIterator[ApiReader]:
    application = web.Application()
    application.router.add_post("/api/v1/namespaces/{namespace}/{plural}", verdicts.create)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        await web.SockSite(runner, listening).start()
        access = Access(
            f"http://127.0.0.1:{listening.getsockname()[1]}", ssl.create_default_context(), token=lambda: ""
        )
        async with ApiReader(access) as api:
            yield api
        await runner.cleanup()


def injected_pod(volume: dict[str, Any] | None = None) -> tuple[Pod, Pod]:
    """A pod with its sidecar, and as it came."""
    tiers: dict[str, Any] = {"dram": {"capacity": "64Mi"}}
    if volume is not None:
        tiers["nvme"] = {"capacity": "64Mi", "volume": volume}
    metadata = {"name": "chat", "namespace": NAMESPACE, "uid": "3f1c7c58-6f0e-4a58-9c39-5f2f2a6d1b10"}
    plain = make_pod()
    facts = Facts(
        pool=parse_pool({"metadata": metadata, "spec": {"tiers": tiers}}), allowed=Allowed("registry.example/sidecar:1")
    )
    return inject(plain, facts).pod, plain


def counted(answer: str) -> float:
    return REGISTRY.get_sample_value("spillway_webhook_dry_runs_total", {"answer": answer}) or 0.0


async def ask(api: ApiReader, volume: dict[str, Any] | None = None, budget_seconds: float = 10.0) -> str | None:
    return await find_refusal(api, Turns(), NAMESPACE, *injected_pod(volume), budget_seconds=budget_seconds)


async def test_admissible_pod_costs_one_question(api: ApiReader, verdicts: Verdicts) -> None:
    assert await ask(api) is None
    ((path, body),) = verdicts.asked
    assert path == "/api/v1/namespaces/team-a/pods"
    assert body["metadata"]["namespace"] == NAMESPACE


async def test_refusal_because_of_us_is_told_in_the_api_servers_words(api: ApiReader, verdicts: Verdicts) -> None:
    verdicts.injected = (403, "exceeded quota: small")
    assert await ask(api) == "exceeded quota: small"


@pytest.mark.parametrize(
    ("injected", "plain"),
    [
        ((403, "violates PodSecurity"), (403, "violates PodSecurity")),
        ((403, 'User "s" cannot create resource "pods"'), TAKEN),
        ((400, 'admission webhook "w" does not support dry run'), TAKEN),
        ((409, "already exists"), TAKEN),
        ((429, "too many requests"), TAKEN),
        ((500, "timed out"), TAKEN),
        ((403, "exceeded quota"), (500, "timed out")),
    ],
    ids=["without us too", "no right to ask", "no dry runs", "name in use", "busy", "broken", "broken at the second"],
)
async def test_answer_that_is_no_verdict_of_ours_stands_in_nobodys_way(
    api: ApiReader, verdicts: Verdicts, injected: Answer, plain: Answer
) -> None:
    before = counted("undecided")
    verdicts.injected, verdicts.plain = injected, plain
    assert await ask(api) is None
    assert counted("undecided") == before + 1


async def test_claim_that_would_be_refused_is_told_before_the_pod_waits_for_it(
    api: ApiReader, verdicts: Verdicts
) -> None:
    verdicts.claim = (403, "exceeded quota: requests.storage")
    assert await ask(api, {"type": "Ephemeral", "ephemeral": {"storageClassName": "fast"}}) == verdicts.claim[1]
    claim = next(body for path, body in verdicts.asked if path.endswith("/persistentvolumeclaims"))
    assert claim["spec"]["storageClassName"] == "fast"
    assert claim["metadata"]["namespace"] == NAMESPACE


async def test_api_server_that_does_not_answer_holds_no_pod_up(api: ApiReader, verdicts: Verdicts) -> None:
    before = counted("undecided")
    verdicts.stands_still.clear()
    assert await ask(api, budget_seconds=0.05) is None
    verdicts.stands_still.set()
    assert counted("undecided") == before + 1


async def test_only_a_yes_in_time_is_one(api: ApiReader, verdicts: Verdicts) -> None:
    injected, _ = injected_pod({"type": "Ephemeral"})

    async def admitted(budget_seconds: float = 10.0) -> bool:
        return await is_admitted(api, Turns(), NAMESPACE, injected, budget_seconds=budget_seconds)

    assert await admitted()
    for no in (
        (403, "exceeded quota"),
        (403, 'User "s" cannot create resource "pods"'),
        (429, "busy"),
        (500, "broken"),
    ):
        verdicts.injected = no
        assert not await admitted(), no
    verdicts.injected, verdicts.claim = TAKEN, (403, "exceeded quota: requests.storage")
    assert not await admitted()
    verdicts.claim = TAKEN
    verdicts.stands_still.clear()
    assert not await admitted(0.05)
    assert not await admitted(-1.0), "nothing is left of the time"
    verdicts.stands_still.set()


async def test_a_namespace_that_takes_all_its_turns_leaves_others_theirs() -> None:
    turns, taken = Turns(), asyncio.Semaphore(0)

    async def hold() -> None:
        async with turns.of("slow"):
            taken.release()
            await asyncio.Event().wait()

    holding = [asyncio.create_task(hold()) for _ in range(3 * ASKING_OF_A_NAMESPACE)]
    for _ in range(ASKING_OF_A_NAMESPACE):
        await taken.acquire()
    async with asyncio.timeout(10), turns.of("other"):
        assert taken.locked(), "no more of them than the namespace has turns"
    for task in holding:
        task.cancel()
