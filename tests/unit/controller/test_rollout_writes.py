"""How often a pool's status is written while its pods change: the controller's own queue and reconcile, on a clock that skips."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import cache
from typing import Any

import pytest
from controller_builders import GIB, NOW, host_path_spec, make_pod_body, make_pool_body
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from memory_api import MemoryApi
from rig import CHAT, SETTINGS
from spillway_operator.api import PoolStatus, parse_pool, sidecar_image
from spillway_operator.controller.controller import Controller
from spillway_operator.controller.members import MemberReport, Observation, TierReport, TokenReport
from spillway_operator.controller.status_keys import StatusSigner
from spillway_operator.injection.revision import pool_revision
from spillway_operator.kube.client import FieldManager
from spillway_operator.kube.errors import ApiError
from spillway_operator.kube.resources import NODES, POOLS, Manifest, Resource
from virtual_loop import run_virtually

PODS = 500
NODE_COUNT = 50
REPORT_EVERY_SECONDS = 30
SIGNER = StatusSigner(Ed25519PrivateKey.generate())


class CountingApi(MemoryApi):
    """Counts accepted writes of status; answers nothing while `down`."""

    def __init__(self, *pools: Manifest) -> None:
        super().__init__(*pools)
        self.written_at: list[float] = []
        self.down = False

    def _check(self, verb: str, resource: Resource, name: str) -> None:
        if self.down:
            raise ApiError(0, verb, resource.path(None, name), "connection refused")
        super()._check(verb, resource, name)

    async def apply(self, manifest: Manifest, resource: Resource, manager: FieldManager, **options: Any) -> Manifest:
        answer = await super().apply(manifest, resource, manager, **options)
        if manager is FieldManager.STATUS:
            self.written_at.append(asyncio.get_running_loop().time())
        return answer


class Fleet:
    """A pool and its pods, at an API server in memory, and a controller that is told of them as a watch would."""

    def __init__(self, api: CountingApi) -> None:
        self.api = api
        self.pods: dict[str, Manifest] = {}
        self.tick = 0
        self.fills = True
        self.controller = Controller(api, SETTINGS, SIGNER, self.now)

    def now(self) -> Any:
        return NOW + timedelta(seconds=asyncio.get_running_loop().time())

    def see_pool(self) -> None:
        self.controller.see_pool({"type": "ADDED", "object": self.api.stored[POOLS.kind, "chat"]})

    def put(self, number: int, generation: int, revision: str, *, ready: bool) -> None:
        name = f"chat-{generation}-{number}"
        body = make_pod_body(
            name, ready=ready, ready_at=self.now(), node=f"node-{number % NODE_COUNT}",
            phase="Running" if ready else "Pending", labels={"spillway.dev/revision": revision},
        )  # fmt: skip
        self.pods[name] = body
        self.controller.see_pod({"type": "MODIFIED", "object": body})

    def end(self, number: int, generation: int) -> None:
        body = self.pods.pop(f"chat-{generation}-{number}")
        self.controller.see_pod({"type": "DELETED", "object": body})

    def report(self, *names: str) -> None:
        """Sidecars say how they are: DRAM fills, tokens are looked up and loaded."""
        observed = self.controller._observed
        views = {pod.name: pod for pod in observed.pods(CHAT)}
        self.tick += self.fills
        for name in names:
            pod = views[name]
            if pod.ready and pod.ready_at is not None:
                minutes = 10 if not self.fills else int((self.now() - pod.ready_at).total_seconds()) // 60
                self.controller._members.take(pod, Observation(make_report(minutes, self.tick), self.now()))

    async def report_for_ever(self) -> None:
        while True:
            for first in range(0, PODS, PODS // 5):
                await asyncio.sleep(REPORT_EVERY_SECONDS / 5)
                self.report(*list(self.pods)[first : first + PODS // 5])

    def list_all(self, controller: Controller) -> None:
        """As a watch that begins anew tells."""
        self.controller = controller
        self.see_pool()
        for body in self.pods.values():
            controller.see_pod({"type": "ADDED", "object": body})

    @asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(self.controller._queue.run()), asyncio.create_task(self.report_for_ever())]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    @property
    def status(self) -> PoolStatus:
        return PoolStatus.model_validate(self.api.stored[POOLS.kind, "chat"]["status"])


@cache
def make_report(minutes: int, tick: int) -> MemberReport:
    tier = TierReport(name="dram", capacity_bytes=GIB, used_bytes=GIB * min(10, minutes) // 10, chunks=tick)
    tokens = TokenReport(looked_up=1000 + tick, dram=minutes * 10 % 900)
    return MemberReport(tiers=(tier,), tokens=tokens, engines_attached=1, engines_attached_ever=1)


async def fleet_at_rest() -> Fleet:
    """A pool of 500 ready pods whose status is written."""
    api = CountingApi(make_pool_body(spec=host_path_spec()))
    for number in range(NODE_COUNT):
        api.put(NODES, {"metadata": {"name": f"node-{number}"}})
    fleet = Fleet(api)
    fleet.see_pool()
    for number in range(PODS):
        fleet.put(number, 0, revision_of(fleet), ready=True)
    async with fleet.working():
        await asyncio.sleep(600)
    assert fleet.status.pods is not None
    assert fleet.status.pods.ready == PODS
    api.written_at.clear()
    return fleet


def revision_of(fleet: Fleet) -> str:
    stored = fleet.controller._observed.pool(CHAT)
    assert stored is not None
    pool = parse_pool(stored)
    return pool_revision(pool, sidecar_image(pool, SETTINGS.allowed))


async def roll_as_deployment(fleet: Fleet, revision: str) -> None:
    """A quarter is surplus, and an engine takes 90 s to load: ten minutes in which somebody is always starting."""
    surplus, starts_seconds = PODS // 4, 90.0
    for begin in range(0, PODS, surplus):
        batch = range(begin, min(begin + surplus, PODS))
        for number in batch:
            fleet.put(number, 1, revision, ready=False)
            await asyncio.sleep(0.05)
        await asyncio.sleep(starts_seconds)
        for number in batch:
            fleet.put(number, 1, revision, ready=True)
            fleet.end(number, 0)
            await asyncio.sleep(0.5)


async def roll_one_by_one(fleet: Fleet, revision: str) -> None:
    """As a StatefulSet: the pool gets whole after each pod, for ten minutes."""
    for number in range(PODS):
        fleet.end(number, 0)
        fleet.put(number, 1, revision, ready=False)
        await asyncio.sleep(0.7)
        fleet.put(number, 1, revision, ready=True)
        await asyncio.sleep(0.5)


def change_revision(fleet: Fleet) -> str:
    pool = fleet.api.stored[POOLS.kind, "chat"]
    pool["spec"]["tiers"]["dram"]["capacity"] = "2Gi"
    pool["metadata"]["generation"] += 1
    pool["metadata"]["resourceVersion"] = str(int(pool["metadata"]["resourceVersion"]) + 1)
    fleet.see_pool()
    return revision_of(fleet)


@pytest.mark.parametrize("roll", [roll_as_deployment, roll_one_by_one])
def test_rollout_of_500_pods_costs_fewer_than_20_status_writes(
    roll: Callable[[Fleet, str], Coroutine[Any, Any, None]],
) -> None:
    async def main() -> None:
        fleet = await fleet_at_rest()
        async with fleet.working():
            revision = change_revision(fleet)
            await roll(fleet, revision)
            ended_at = asyncio.get_running_loop().time()
            await asyncio.sleep(80)
            seen = fleet.status
            assert seen.pods is not None
            assert (seen.pods.ready, seen.pods.outdated, seen.pods.labelled) == (PODS, 0, PODS)
            ready = seen.condition("Ready")
            assert ready is not None
            assert ready.status == "True"
            writes = fleet.api.written_at
            last = max(at for at in writes if at <= ended_at + 80) - ended_at
            print(f"{roll.__name__}: {len(writes)} status writes, the last {last:.0f} s after the end")
            assert len(writes) < 20, writes

    run_virtually(main())


def test_restart_and_outage_write_nothing_that_does_not_differ() -> None:
    async def main() -> None:
        fleet = await fleet_at_rest()
        fleet.fills = False
        async with fleet.working():
            await asyncio.sleep(700)  # the last slow facts
        fleet.api.written_at.clear()
        fleet.list_all(Controller(fleet.api, SETTINGS, SIGNER, fleet.now))
        async with fleet.working():
            await asyncio.sleep(300)
            assert fleet.api.written_at == [], "a restart is no news of a pool"
            fleet.api.down = True
            fleet.list_all(fleet.controller)
            await asyncio.sleep(120)
            fleet.put(0, 0, revision_of(fleet), ready=False)
            await asyncio.sleep(60)
            fleet.put(0, 0, revision_of(fleet), ready=True)
            await asyncio.sleep(120)
            fleet.api.down = False
            await asyncio.sleep(120)
            assert fleet.api.written_at == [], "what came and went meanwhile is no news"
            fleet.end(0, 0)
            await asyncio.sleep(5)
            assert len(fleet.api.written_at) == 1

    run_virtually(main())
