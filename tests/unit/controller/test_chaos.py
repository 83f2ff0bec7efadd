"""Whatever any single call to the API server comes to, and wherever the operator is killed, the end is the same."""

from __future__ import annotations

import copy
import json
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest
from controller_builders import NOW, make_pod_body
from memory_api import MemoryApi
from rig import CHAT, SETTINGS, Rig
from spillway_operator.api import parse_pool
from spillway_operator.controller import stuck_pods
from spillway_operator.controller.controller import Controller
from spillway_operator.controller.disk import FINALIZER
from spillway_operator.controller.status_keys import StatusSigner
from spillway_operator.injection import pool_revision
from spillway_operator.kube.errors import ApiError, Conflict, NotFound
from spillway_operator.kube.resources import PODS, POOLS, Manifest

MAX_TRIES = 8
Fault = Callable[[], BaseException]


class Killed(BaseException):
    """The process ends here."""


class FaultyApi(MemoryApi):
    """Its `at`-th call fails: before it took effect, or after, when only the answer is lost."""

    def __init__(self, stored: dict[tuple[str, str], Manifest]) -> None:
        super().__init__()
        self.stored = copy.deepcopy(stored)
        self.calls = 0
        self.at = -1
        self.fault: Fault = Killed
        self.takes_effect = False
        self.failed = ""

    async def _call(self, work: Awaitable[Any], what: str = "") -> Any:
        self.calls += 1
        if self.calls - 1 != self.at:
            return await work
        if not self.takes_effect and what.startswith("create") and isinstance(self.fault(), Conflict):
            return await work  # nothing is there that it could meet
        if self.takes_effect:
            await work
        else:
            work.close()  # type: ignore[attr-defined]
        self.failed = what
        raise self.fault()

    async def get(self, *args: Any, **kwargs: Any) -> Any:
        return await self._call(super().get(*args, **kwargs), f"get {args}")

    async def list(self, *args: Any, **kwargs: Any) -> Any:
        return await self._call(super().list(*args, **kwargs), f"list {args}")

    async def create(self, *args: Any, **kwargs: Any) -> Any:
        return await self._call(super().create(*args, **kwargs), f"create {args}")

    async def dry_run(self, *args: Any, **kwargs: Any) -> Any:
        return await self._call(super().dry_run(*args, **kwargs), f"dry_run {args}")

    async def delete(self, *args: Any, **kwargs: Any) -> Any:
        return await self._call(super().delete(*args, **kwargs), f"delete {args}")

    async def apply(self, *args: Any, **kwargs: Any) -> Any:
        return await self._call(super().apply(*args, **kwargs), f"apply {args}")


def answers(status: int) -> Fault:
    kinds = {404: NotFound, 409: Conflict}
    return lambda: kinds.get(status, ApiError)(status, "GET", "/", "made by the test")


FAULTS: dict[str, Fault] = {"killed": Killed, **{str(s): answers(s) for s in (0, 409, 410, 429, 500)}}


def living() -> Rig:
    """A pool on hostPath with a pod that runs, one that was skipped, and one whose sidecar cannot be pulled."""
    rig = Rig()
    stuck = make_pod_body(
        "stuck", waiting="ImagePullBackOff", phase="Pending", ready=False,
        ownerReferences=[{"kind": "ReplicaSet", "controller": True}],
        labels={"spillway.dev/revision": pool_revision(parse_pool(rig.pool), SETTINGS.sidecar_image)},
    )  # fmt: skip
    for body in (
        make_pod_body("chat-0"),
        make_pod_body("plain", injected=False, annotations={"spillway.dev/skipped": "host-ipc"}),
        stuck,
    ):
        rig.api.put(PODS, body)
    return rig


def leaving() -> Rig:
    """A deleted pool with data on two nodes."""
    return Rig(nodes=("node-1", "node-2"), deletionTimestamp=NOW.isoformat())


async def settle(api: FaultyApi, signer: StatusSigner) -> None:
    """Reconcile until nothing is left to do; who is killed begins anew, and what failed is tried again."""
    controller = Controller(api, SETTINGS, signer)
    seen = {pod["metadata"]["uid"]: pod for pod in api.kind(PODS)}
    writes = ""
    for _ in range(MAX_TRIES):
        before = _essence(api)
        try:
            for pool in api.kind(POOLS):
                controller.see_pool({"type": "MODIFIED", "object": pool})
            there = {
                pod["metadata"]["uid"]: pod
                for pod in api.kind(PODS)
                if "spillway.dev/pool" in pod["metadata"]["labels"]
            }
            for uid, pod in seen.items():
                controller.see_pod({"type": "MODIFIED" if uid in there else "DELETED", "object": there.get(uid, pod)})
            await controller._reconciler.reconcile(CHAT)
        except ApiError:
            continue
        except Killed:
            controller = Controller(api, SETTINGS, signer)
            continue
        writes = _essence(api)
        if writes == before:
            return
    raise AssertionError(f"not settled after {MAX_TRIES} tries: {writes}")


def _essence(api: MemoryApi) -> str:
    """What is stored, without what tells when and how often it was written."""
    volatile = {
        "resourceVersion",
        "creationTimestamp",
        "firstTimestamp",
        "lastTimestamp",
        "lastTransitionTime",
        "since",
    }

    def strip(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: strip(child) for key, child in value.items() if key not in volatile}
        return [strip(child) for child in value] if isinstance(value, list) else value

    return json.dumps(strip([manifest for _, manifest in sorted(api.stored.items())]), sort_keys=True, default=str)


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("takes_effect", [False, True], ids=["refused", "answer-lost"])
@pytest.mark.parametrize("scene", [living, leaving])
async def test_every_call_may_fail_once(
    scene: Callable[[], Rig], takes_effect: bool, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stuck_pods, "GRACE", timedelta(0))
    monkeypatch.setattr(stuck_pods, "SPREAD", timedelta(0))
    rig = scene()
    stored, signer = rig.api.stored, rig.controller._members._signer
    undisturbed = FaultyApi(stored)
    await settle(undisturbed, signer)
    assert undisturbed.calls > 5
    for at in range(undisturbed.calls):
        api = FaultyApi(stored)
        api.at, api.fault, api.takes_effect = at, FAULTS[fault], takes_effect
        await settle(api, signer)
        assert _essence(api) == _essence(undisturbed), f"call {at} of {undisturbed.calls}: {api.failed}"


async def test_the_scenes_are_worth_disturbing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The living pool has a finalizer, a ConfigMap, an Event and a status; the leaving one cleanup pods on both nodes."""
    monkeypatch.setattr(stuck_pods, "GRACE", timedelta(0))
    rig = living()
    api = FaultyApi(rig.api.stored)
    await settle(api, rig.controller._members._signer)
    assert {kind for kind, _ in api.stored} >= {"KVCachePool", "ConfigMap", "Event", "Pod"}
    (pool,) = api.kind(POOLS)
    assert pool["metadata"]["finalizers"] == [FINALIZER]
    assert len(pool["status"]["conditions"]) == 6
    api = FaultyApi(leaving().api.stored)
    await settle(api, rig.controller._members._signer)
    assert {pod["spec"]["nodeName"] for pod in api.kind(PODS)} == {"node-1", "node-2"}
