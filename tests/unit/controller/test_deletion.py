"""A deleted pool stays until its pods have ended and its nodes are clean, and says what it waits for."""

from __future__ import annotations

import json
from typing import Any

import pytest
from controller_builders import NOW, POOL_UID
from rig import Rig
from spillway_operator.kube.client import FieldManager
from spillway_operator.kube.errors import ApiError
from spillway_operator.kube.resources import EVENTS, NODES, PODS, POOLS

DELETED = {"deletionTimestamp": NOW.isoformat()}
EARLIER_POOL = {"spillway.dev/status": json.dumps({"poolUid": "aaaaaaaa-0b0a-0908-0706-050403020100"})}


def make_deleted(*nodes: str, **overrides: Any) -> Rig:
    """A pool that somebody deleted a moment ago; its data lies on `nodes`."""
    return Rig(nodes=nodes, **{**DELETED, **overrides})


@pytest.mark.parametrize(
    "overrides",
    [
        {"phase": "Running"},
        {"phase": "Pending", "node": ""},
        {"deletionTimestamp": NOW.isoformat()},
        {"labels": {"spillway.dev/pool": "other"}},
    ],
    ids=["running", "not scheduled", "leaving", "labelled for another pool since"],
)
async def test_the_pool_waits_for_a_pod_that_may_still_write(overrides: dict[str, Any]) -> None:
    rig = make_deleted("node-2")
    rig.see_pod("chat-0", **overrides)
    await rig.reconcile()
    assert rig.is_held
    assert not rig.cleanup_pods(), "the pod would make the folder again"
    reason, message = rig.progress()
    assert reason == "DiskInUse"
    assert "(1: chat-0)" in message


@pytest.mark.parametrize(
    "overrides",
    [{"phase": "Succeeded"}, {"phase": "Failed"}, {"injected": False}, {"annotations": EARLIER_POOL}],
    ids=["succeeded", "failed", "plain", "injected for an earlier pool of that name"],
)
async def test_the_pool_does_not_wait_for_a_pod_that_cannot_write(overrides: dict[str, Any]) -> None:
    rig = make_deleted("node-2")
    rig.see_pod("chat-0", node="node-2", **overrides)
    await rig.reconcile()
    assert set(rig.cleanup_pods()) == {"node-2"}


async def test_three_pods_are_named_and_the_rest_counted() -> None:
    rig = make_deleted()
    for number in range(5):
        rig.see_pod(f"chat-{number}")
    await rig.reconcile()
    _, message = rig.progress()
    assert "(5: chat-0, chat-1, chat-2 and 2 more)" in message


async def test_waiting_writes_once() -> None:
    rig = make_deleted("node-1")
    rig.see_pod("chat-0")
    await rig.reconcile()
    written = rig.pool["metadata"]["resourceVersion"]
    await rig.reconcile()
    assert rig.pool["metadata"]["resourceVersion"] == written


@pytest.mark.parametrize("is_kept", [True, False], ids=["ended", "gone"])
async def test_after_the_last_pod_its_node_is_cleaned_and_the_pool_goes(is_kept: bool) -> None:
    rig = make_deleted("node-1")
    rig.see_pod("chat-0", node="node-2")
    await rig.reconcile()
    if is_kept:
        rig.see_pod("chat-0", node="node-2", phase="Succeeded")
    else:
        rig.lose_pod("chat-0")
    await rig.reconcile()
    assert set(rig.cleanup_pods()) == {"node-1", "node-2"}
    for node in ("node-1", "node-2"):
        rig.end_cleanup(node)
    await rig.reconcile()
    assert not rig.is_held
    assert not rig.cleanup_pods()


async def test_an_ended_pod_does_not_bring_back_a_node_that_was_cleaned() -> None:
    rig = make_deleted("node-1", "node-2")
    rig.see_pod("chat-0", node="node-2", phase="Succeeded")
    await rig.reconcile()
    rig.end_cleanup("node-2")
    await rig.reconcile()
    assert rig.recorded_nodes == ("node-1",)
    rig.end_cleanup("node-1")
    await rig.reconcile()
    assert not rig.is_held


async def test_a_node_is_cleaned_again_after_a_pod_that_outlived_its_cleaning() -> None:
    rig = make_deleted("node-1")
    await rig.reconcile()
    rig.end_cleanup("node-1")
    rig.see_pod("chat-late", node="node-1")
    await rig.reconcile()
    assert rig.is_held
    assert not rig.cleanup_pods(), "a cleaning that a pod outlived counts for nothing"
    rig.lose_pod("chat-late")
    await rig.reconcile()
    assert rig.cleanup_pods()["node-1"].get("status") is None, "a new one has begun"


async def test_who_abandons_the_disks_waits_for_no_pod() -> None:
    rig = make_deleted("node-1", annotations={"spillway.dev/abandon-disk": "true"})
    rig.see_pod("chat-0")
    await rig.reconcile()
    assert not rig.is_held


async def test_a_folder_that_is_not_there_is_told_with_node_and_path() -> None:
    rig = make_deleted("node-1")
    await rig.reconcile()
    rig.end_cleanup("node-1", "absent")
    await rig.reconcile()
    assert not rig.is_held
    (event,) = rig.api.kind(EVENTS)
    assert event["reason"] == "DiskFolderAbsent"
    assert f"node node-1: /mnt/nvme0/team-a/{POOL_UID} does not exist" in event["message"]


async def test_a_folder_that_was_removed_is_nothing_to_tell() -> None:
    rig = make_deleted("node-1")
    await rig.reconcile()
    rig.end_cleanup("node-1", "removed")
    await rig.reconcile()
    assert not rig.is_held
    assert not rig.api.kind(EVENTS)


async def test_a_node_that_cannot_be_looked_at_costs_no_other_its_result() -> None:
    rig = make_deleted("node-1", "node-2", "node-3")
    await rig.reconcile()
    rig.end_cleanup("node-1")
    rig.end_cleanup("node-3")
    rig.refuse(("get", NODES, "node-2"))
    with pytest.raises(ApiError):  # the queue's pause grows with each
        await rig.reconcile()
    assert rig.recorded_nodes == ("node-2",)
    assert set(rig.cleanup_pods()) == {"node-2"}
    rig.refuse()
    rig.end_cleanup("node-2")
    await rig.reconcile()
    assert not rig.is_held
    assert not rig.api.kind(EVENTS)


async def test_a_clean_node_is_not_cleaned_again_because_the_status_was_not_written() -> None:
    """A second cleanup would find nothing there and tell of a disk that is not mounted."""
    rig = make_deleted("node-1")
    await rig.reconcile()
    rig.end_cleanup("node-1")
    rig.refuse((FieldManager.STATUS.value, POOLS, "chat"))
    with pytest.raises(ApiError):
        await rig.reconcile()
    assert rig.recorded_nodes == ("node-1",)
    assert rig.cleanup_pods()["node-1"]["status"]["phase"] == "Succeeded", "it is what the next look goes by"
    rig.refuse()
    await rig.reconcile()
    assert not rig.is_held
    assert not rig.cleanup_pods()


@pytest.mark.parametrize("refused", ["pod", "finalizer"])
async def test_who_fails_to_let_go_of_a_clean_pool_cleans_nothing_again(refused: str) -> None:
    rig = make_deleted("node-1")
    await rig.reconcile()
    rig.end_cleanup("node-1")
    name = rig.cleanup_pods()["node-1"]["metadata"]["name"]
    rig.refuse(("delete", PODS, name) if refused == "pod" else (FieldManager.FINALIZER.value, POOLS, "chat"))
    for _ in range(2):
        with pytest.raises(ApiError):
            await rig.reconcile()
        assert rig.recorded_nodes == ()
        assert set(rig.cleanup_pods()) == ({"node-1"} if refused == "pod" else set())
    rig.refuse()
    await rig.reconcile()
    assert not rig.is_held
    assert not rig.cleanup_pods()


async def make_leftover() -> Rig:
    """A pool whose node-2 is clean and forgotten, but the pod that cleaned it is still there; node-1 is being cleaned."""
    rig = make_deleted("node-1", "node-2")
    await rig.reconcile()
    rig.end_cleanup("node-2")
    rig.refuse(("delete", PODS, rig.cleanup_pods()["node-2"]["metadata"]["name"]))
    with pytest.raises(ApiError):
        await rig.reconcile()
    rig.refuse()
    assert rig.recorded_nodes == ("node-1",)
    assert set(rig.cleanup_pods()) == {"node-1", "node-2"}
    return rig


@pytest.mark.parametrize("is_abandoned", [True, False], ids=["abandoned", "cleaned"])
async def test_no_cleanup_pod_outlives_the_pool(is_abandoned: bool) -> None:
    rig = await make_leftover()
    if is_abandoned:
        rig.pool["metadata"]["annotations"] = {"spillway.dev/abandon-disk": "true"}
    else:
        rig.end_cleanup("node-1")
    await rig.reconcile()
    assert not rig.is_held
    assert not rig.cleanup_pods()
    assert not rig.api.kind(EVENTS)


async def test_a_cleanup_pod_left_over_vouches_for_nothing_later() -> None:
    rig = await make_leftover()
    rig.see_pod("chat-late", node="node-1")
    await rig.reconcile()
    rig.see_pod("chat-later", node="node-2")
    await rig.reconcile()
    assert not rig.cleanup_pods()
    for name in ("chat-late", "chat-later"):
        rig.lose_pod(name)
    await rig.reconcile()
    assert [pod.get("status") for pod in rig.cleanup_pods().values()] == [None, None], "both are cleaned anew"


async def test_a_spec_that_cannot_be_read_keeps_its_nodes() -> None:
    rig = make_deleted("node-1", spec={"tiers": "of a later version"})
    await rig.reconcile()
    assert rig.is_held
    assert rig.recorded_nodes == ("node-1",)


async def test_conditions_that_deletion_says_nothing_of_stand_as_they_were() -> None:
    rig = Rig()
    rig.see_pod("chat-0")
    await rig.reconcile()
    before = {condition.type: condition for condition in rig.status.conditions}
    rig.pool["metadata"] |= {**DELETED, "generation": 2}
    await rig.reconcile()
    after = {condition.type: condition for condition in rig.status.conditions}
    assert list(after) == list(before)
    assert [after[kind] for kind in ("ConfigValid", "StorageProvisioned")] == [
        before[kind] for kind in ("ConfigValid", "StorageProvisioned")
    ]
    assert after["Progressing"].reason == "DiskInUse"
    assert after["Progressing"].observed_generation == 2


@pytest.mark.parametrize("message", ["absent", "refused"])
async def test_a_warning_that_cannot_be_posted_keeps_no_status_from_being_written(message: str) -> None:
    rig = make_deleted("node-1", "node-2")
    await rig.reconcile()
    rig.end_cleanup("node-2")
    if message == "absent":
        rig.end_cleanup("node-1", "absent")
    else:
        rig.cleanup_pods()["node-1"]["status"] = {"phase": "Failed"}
    rig.refuse(("create", EVENTS, EVENTS.kind))
    with pytest.raises(ApiError, match="refused by the test"):
        await rig.reconcile()
    assert rig.recorded_nodes == ("node-1",), "the other is clean, and this one is to be told of yet"
    rig.refuse()
    await rig.reconcile()
    (event,) = rig.api.kind(EVENTS)
    assert "node-1" in event["message"]
    assert rig.is_held is (message == "refused")
