"""What a reconcile records of a living pool."""

from __future__ import annotations

from typing import Any

import pytest
from rig import Rig
from spillway_operator.kube.client import FieldManager
from spillway_operator.kube.errors import ApiError
from spillway_operator.kube.resources import CONFIG_MAPS, EVENTS, Resource


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
