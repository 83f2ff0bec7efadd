"""`helm uninstall` leaves nothing that only the operator could have let go, and says what stays on which node."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from controller_builders import POOL_UID, host_path_spec, make_pool_body
from memory_api import MemoryApi
from spillway_operator.controller.disk import FINALIZER
from spillway_operator.controller.uninstall import Uninstallation
from spillway_operator.kube.errors import NotFound
from spillway_operator.kube.resources import (
    CONFIG_MAPS,
    DEPLOYMENTS,
    EVENTS,
    LEASES,
    PODS,
    POOLS,
    SECRETS,
    Manifest,
    Resource,
)

NAMESPACE = "spillway-system"
LEAVING = {"deletionTimestamp": "2026-01-01T00:00:00Z"}


def pool(*nodes: str, **metadata: Any) -> Manifest:
    return make_pool_body(
        spec=host_path_spec(), status={"disk": {"nodes": list(nodes)}}, metadata={"finalizers": [FINALIZER], **metadata}
    )


class Rig:
    """A release and its pools. `each_second` is what happens while the run waits."""

    def __init__(self, *pools: Manifest, operators: int = 1) -> None:
        self.api = MemoryApi(*pools)
        self.seconds = 0.0
        self.stuck = False
        self.each_second: Callable[[], None] = lambda: None
        deployment = {"metadata": {"name": "spillway-operator", "namespace": NAMESPACE, "uid": "d"}}
        self.api.put(DEPLOYMENTS, {**deployment, "spec": {"replicas": 1}, "status": {"availableReplicas": operators}})
        labels = {"app.kubernetes.io/name": "spillway", "app.kubernetes.io/component": "operator"}
        if operators:
            name = {"name": "spillway-operator-0", "namespace": NAMESPACE, "labels": labels}
            self.api.put(PODS, {"metadata": name, "status": {"phase": "Running"}})

    async def run(self, finish_seconds: float = 30) -> list[str]:
        return await Uninstallation(
            self.api, NAMESPACE, finish_seconds, clock=lambda: self.seconds, sleep=self._sleep
        ).run()

    async def _sleep(self, seconds: float) -> None:
        self.seconds += seconds
        self.each_second()
        if not self.stuck and self.api.stored[DEPLOYMENTS.kind, "spillway-operator"]["spec"] == {"replicas": 0}:
            self.api.drop(PODS, "spillway-operator-0")

    @property
    def finalizers(self) -> list[str]:
        return list(self.api.stored[POOLS.kind, "chat"]["metadata"]["finalizers"])

    def names(self, resource: Resource) -> set[str]:
        return {manifest["metadata"]["name"] for manifest in self.api.kind(resource)}


async def test_a_living_pool_stays_released_with_its_data_named() -> None:
    rig = Rig(pool("node-1", "node-2"))
    (line,) = await rig.run()
    assert rig.finalizers == []
    assert line == (
        f"pool team-a/chat stays, without an operator; its data stays in /mnt/nvme0/team-a/{POOL_UID} on nodes node-1, node-2"
    )
    (event,) = rig.api.kind(EVENTS)
    assert (event["reason"], event["involvedObject"]["name"]) == ("Uninstalled", "chat")


async def test_a_deletion_under_way_is_finished_by_the_operator() -> None:
    rig = Rig(pool("node-1", **LEAVING))

    def clean_after_5_seconds() -> None:
        if rig.seconds == 5:
            rig.api.drop(POOLS, "chat")

    rig.each_second = clean_after_5_seconds
    assert await rig.run() == ["no pool was there"]


async def test_a_deletion_that_does_not_end_is_cut_at_the_bound() -> None:
    rig = Rig(pool("node-1", **LEAVING))
    (line,) = await rig.run(finish_seconds=30)
    assert rig.finalizers == []
    assert line.startswith("pool team-a/chat is deleted; its data stays in /mnt/nvme0/team-a/")
    assert 30 <= rig.seconds <= 35


async def test_nothing_is_waited_for_where_no_operator_works() -> None:
    rig = Rig(pool("node-1", **LEAVING), operators=0)
    await rig.run()
    assert rig.finalizers == []
    assert rig.seconds == 0


async def test_the_operator_has_ended_before_a_finalizer_goes() -> None:
    """It would set it again."""
    rig = Rig(pool("node-1"))
    seen: list[int] = []
    apply = rig.api.apply

    async def watched(manifest: Manifest, resource: Resource, *rest: Any, **named: Any) -> Manifest:
        if resource is POOLS:
            seen.append(len(rig.names(PODS)))
        return await apply(manifest, resource, *rest, **named)

    rig.api.apply = watched  # type: ignore[method-assign]
    await rig.run()
    assert seen == [0]


async def test_an_operator_that_does_not_end_is_named() -> None:
    rig = Rig(pool("node-1"))
    rig.stuck = True
    lines = await rig.run()
    assert lines[0] == "operator pods do not end and may hold pools again: spillway-operator-0"
    assert rig.finalizers == []


async def test_a_pool_that_nobody_can_read_is_let_go_too() -> None:
    rig = Rig({**pool("node-1"), "spec": {"unknown": 1}})
    (line,) = await rig.run()
    assert rig.finalizers == []
    assert "<its former hostPath>" in line
    assert "node-1" in line


async def test_what_the_operator_made_for_itself_goes() -> None:
    rig = Rig()
    for resource, name in (
        (SECRETS, "spillway-webhook-ca"),
        (SECRETS, "spillway-webhook-tls"),
        (SECRETS, "spillway-status-key"),
        (SECRETS, "somebody-elses"),
        (CONFIG_MAPS, "spillway-status-keys"),
        (LEASES, "spillway-operator"),
    ):
        rig.api.put(resource, {"metadata": {"name": name, "namespace": NAMESPACE}})
    cleanup = {"name": "spillway-cleanup-1", "namespace": NAMESPACE, "labels": {"spillway.dev/cleanup": "u"}}
    rig.api.put(PODS, {"metadata": cleanup})
    await rig.run()
    assert rig.names(SECRETS) == {"somebody-elses"}
    assert rig.names(CONFIG_MAPS) | rig.names(LEASES) | rig.names(PODS) == set()


async def test_without_the_crd_there_is_nothing_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig()

    async def absent(*_: Any, **__: Any) -> list[Manifest]:
        raise NotFound(404, "GET", "/apis/spillway.dev", "the server could not find the requested resource")

    monkeypatch.setattr(rig.api, "list", absent)
    assert await rig.run() == ["there are no KVCachePools: their definition is gone"]
