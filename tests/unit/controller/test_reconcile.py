"""What a reconcile records of a living pool."""

from __future__ import annotations

from typing import Any

import pytest
from rig import Rig
from spillway_operator.kube.client import FieldManager
from spillway_operator.kube.errors import ApiError
from spillway_operator.kube.resources import CONFIG_MAPS, EVENTS, POOLS, STORAGE_CLASSES, Resource


@pytest.mark.parametrize("phase", ["Pending", "Running", "Succeeded", "Failed"])
async def test_the_node_of_every_pod_seen_is_recorded(phase: str) -> None:
    """Also of one that ended while no operator ran: what it stored is still on the node's disk."""
    rig = Rig(nodes=("node-1",))
    rig.see_pod("chat-0", node="node-2", phase=phase)
    await rig.reconcile()
    assert rig.recorded_nodes == ("node-1", "node-2")


async def test_an_ended_pod_is_recorded_and_not_counted() -> None:
    rig = Rig()
    rig.see_pod("chat-0", phase="Succeeded")
    await rig.reconcile()
    assert rig.status.pods is not None
    assert (rig.status.pods.labelled, rig.status.pods.injected) == (0, 0)


def make_foreign_config_map(**labels: str) -> dict[str, Any]:
    metadata = {
        "name": "chat-spillway",
        "namespace": "team-a",
        "uid": "theirs",
        "resourceVersion": "1",
        "labels": labels,
    }
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"theirs": "yes"}}


@pytest.mark.parametrize("labels", [{}, {"spillway.dev/pool": "chat"}], ids=["plain", "with-our-label"])
async def test_a_config_map_of_the_users_is_left_alone_and_said(labels: dict[str, str]) -> None:
    rig = Rig()
    theirs = make_foreign_config_map(**labels)
    rig.api.put(CONFIG_MAPS, theirs)
    if labels:
        rig.controller.see_config_map({"type": "ADDED", "object": theirs})
    await rig.reconcile()
    assert rig.api.kind(CONFIG_MAPS) == [theirs]
    degraded = rig.status.condition("Degraded")
    assert degraded is not None
    assert degraded.reason == "ConfigMapTaken"
    assert "rename or delete it" in degraded.message
    rig.api.drop(CONFIG_MAPS, "chat-spillway")
    await rig.reconcile()
    (ours,) = rig.api.kind(CONFIG_MAPS)
    assert ours["metadata"]["ownerReferences"][0]["kind"] == "KVCachePool"


@pytest.mark.parametrize(
    "refused",
    [("create", EVENTS, EVENTS.kind), (FieldManager.CHILDREN.value, CONFIG_MAPS, "chat-spillway")],
    ids=["event", "config-map"],
)
async def test_parts_of_a_reconcile_fail_apart(refused: tuple[str, Resource, str]) -> None:
    rig = Rig()
    rig.see_pod("chat-0", injected=False, annotations={"spillway.dev/skipped": "host-ipc"})
    rig.refuse(refused)
    with pytest.raises(ApiError, match="refused by the test"):
        await rig.reconcile()
    assert rig.status.pods is not None
    assert rig.status.pods.skipped == 1
    done = rig.api.kind(CONFIG_MAPS if refused[0] == "create" else EVENTS)
    assert len(done) == 1


async def test_a_finalizer_that_cannot_be_set_keeps_nothing_else_from_being_done() -> None:
    rig = Rig(finalizers=[])
    rig.see_pod("chat-0", injected=False, annotations={"spillway.dev/skipped": "host-ipc"})
    rig.refuse((FieldManager.FINALIZER.value, POOLS, "chat"))
    with pytest.raises(ApiError, match="refused by the test"):
        await rig.reconcile()
    assert rig.status.pods is not None
    assert rig.status.pods.skipped == 1
    assert len(rig.api.kind(CONFIG_MAPS)) == len(rig.api.kind(EVENTS)) == 1
    rig.refuse()
    await rig.reconcile()
    assert rig.is_held


def make_ephemeral_spec() -> dict[str, Any]:
    volume = {"type": "Ephemeral", "ephemeral": {"storageClassName": "fast"}}
    return {"tiers": {"dram": {"capacity": "1Gi"}, "nvme": {"capacity": "2Gi", "volume": volume}}}


@pytest.mark.parametrize("is_there", [True, False], ids=["there", "absent"])
async def test_a_storage_class_that_cannot_be_asked_for_changes_nothing_that_was_known(is_there: bool) -> None:
    """What is not known is no fact: neither a class that is missing nor one that has come."""
    rig = Rig(spec=make_ephemeral_spec())
    if is_there:
        rig.api.put(STORAGE_CLASSES, {"metadata": {"name": "fast"}})
    await rig.reconcile()
    before = rig.status.condition("ConfigValid")
    rig.see_pod("chat-0", injected=False, annotations={"spillway.dev/skipped": "host-ipc"})
    rig.controller._reconciler.storage_classes._seen_at.clear()
    rig.refuse(("get", STORAGE_CLASSES, "fast"))
    with pytest.raises(ApiError, match="refused by the test"):
        await rig.reconcile()
    assert rig.status.pods is not None
    assert rig.status.pods.skipped == 1
    assert rig.status.condition("ConfigValid") == before


async def test_an_event_that_is_refused_for_what_it_is_is_not_tried_for_ever() -> None:
    rig = Rig()
    rig.see_pod("chat-0", injected=False, annotations={"spillway.dev/skipped": "host-ipc"})
    rig.api.refused_status = 422
    rig.refuse(("create", EVENTS, EVENTS.kind))
    await rig.reconcile()


async def test_one_event_that_fails_costs_no_other_pod_its_event() -> None:
    rig = Rig()
    for name in ("chat-0", "chat-1"):
        rig.see_pod(name, injected=False, annotations={"spillway.dev/skipped": "host-ipc"})
    rig.api.refused_times = 1
    rig.refuse(("create", EVENTS, EVENTS.kind))
    with pytest.raises(ApiError, match="refused by the test"):
        await rig.reconcile()
    assert [event["involvedObject"]["name"] for event in rig.api.kind(EVENTS)] == ["chat-1"]
    await rig.reconcile()
    assert len(rig.api.kind(EVENTS)) == 2
