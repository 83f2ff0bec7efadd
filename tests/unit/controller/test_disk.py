"""Which nodes hold data, and what is written to keep or drop the finalizer."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from controller_builders import NOW, POOL_UID, host_path_spec, make_pod, make_pool
from spillway_operator.api import KVCachePool
from spillway_operator.controller.disk import (
    FINALIZER,
    Cleaning,
    build_finalizer_manifest,
    decide_disk_nodes,
    host_path_of,
    is_abandoned,
    judge_cleanup_pod,
    wants_finalizer,
)
from spillway_operator.resources import DiskCleanup

CLEANUP = DiskCleanup("team-a", "chat", POOL_UID, "/mnt/nvme0", "node-1")


def make_host_path_pool(*nodes: str) -> KVCachePool:
    return make_pool(spec=host_path_spec(), status={"disk": {"nodes": list(nodes)}})


def test_nodes_are_those_recorded_and_those_of_injected_pods() -> None:
    pods = [make_pod("a"), make_pod("b", phase="Succeeded", node="node-2"), make_pod("c", node="")]
    assert decide_disk_nodes(make_host_path_pool("gone-node"), pods) == ["gone-node", "node-1", "node-2"]


def test_a_pool_without_host_path_records_no_node() -> None:
    pool = make_pool()
    assert decide_disk_nodes(pool, [make_pod("a")]) == []
    assert not wants_finalizer(pool, [])


def test_a_pool_that_left_host_path_still_owes_the_cleanup() -> None:
    pool = make_pool(status={"disk": {"nodes": ["node-1"]}})
    assert host_path_of(pool) is None
    assert wants_finalizer(pool, decide_disk_nodes(pool, []))


@pytest.mark.parametrize("present", [True, False])
def test_the_finalizer_is_ours_alone_and_cannot_create_a_pool(present: bool) -> None:
    manifest = build_finalizer_manifest(make_pool().metadata, present=present)
    assert manifest["metadata"].get("finalizers", []) == ([FINALIZER] if present else [])
    assert manifest["metadata"]["uid"] == POOL_UID
    assert "spec" not in manifest


@pytest.mark.parametrize(("value", "abandoned"), [("true", True), ("false", False), ("yes", False)])
def test_only_true_abandons_the_disk(value: str, abandoned: bool) -> None:
    assert is_abandoned(make_pool(metadata={"annotations": {"spillway.dev/abandon-disk": value}}).metadata) is abandoned


def make_succeeded(message: str, **metadata: str) -> dict[str, Any]:
    terminated = {"state": {"terminated": {"message": message}}}
    return {
        "metadata": {"name": "cleanup-1", "creationTimestamp": NOW.isoformat(), **metadata},
        "status": {"phase": "Succeeded", "containerStatuses": [terminated]},
    }


@pytest.mark.parametrize(
    ("phase", "age_seconds", "state", "is_retried"),
    [
        ("Succeeded", 5, Cleaning.DONE, False),
        ("Succeeded", 5000, Cleaning.DONE, False),
        ("Pending", 59, Cleaning.RUNNING, False),
        ("Pending", 61, Cleaning.FAILED, False),
        ("Running", 659, Cleaning.RUNNING, False),
        ("Running", 661, Cleaning.FAILED, False),
        ("Failed", 299, Cleaning.FAILED, False),
        ("Failed", 301, Cleaning.FAILED, True),
    ],
)
def test_a_cleanup_pod_is_judged_by_phase_and_age(
    phase: str, age_seconds: int, state: Cleaning, is_retried: bool
) -> None:
    created = (NOW - timedelta(seconds=age_seconds)).isoformat()
    pod = {"metadata": {"name": "cleanup-1", "creationTimestamp": created}, "status": {"phase": phase}}
    judged = judge_cleanup_pod(pod, CLEANUP, NOW)
    assert (judged.outcome.node, judged.outcome.state, judged.is_retried) == ("node-1", state, is_retried)
    assert ("/mnt/nvme0" in judged.outcome.message) == (state is Cleaning.FAILED)


@pytest.mark.parametrize(
    ("message", "state"), [("removed", Cleaning.DONE), ("absent\n", Cleaning.ABSENT), ("", Cleaning.DONE)]
)
def test_a_cleanup_that_found_nothing_is_told_from_one_that_removed(message: str, state: Cleaning) -> None:
    judged = judge_cleanup_pod(make_succeeded(message), CLEANUP, NOW)
    assert judged.outcome.state is state
    assert (f"/mnt/nvme0/team-a/{POOL_UID}" in judged.outcome.message) == (state is Cleaning.ABSENT)


def test_a_cleanup_pod_that_is_leaving_vouches_for_nothing() -> None:
    """It was dropped because a pod of the pool outlived it; it must not be taken for the one that comes after."""
    judged = judge_cleanup_pod(make_succeeded("removed", deletionTimestamp=NOW.isoformat()), CLEANUP, NOW)
    assert (judged.outcome.state, judged.is_retried) == (Cleaning.RUNNING, False)


@pytest.mark.parametrize("phase", ["Pending", "Running", "Unknown", "Succeeded", "Failed"])
@pytest.mark.parametrize("is_leaving", [True, False], ids=["leaving", "staying"])
def test_a_cleanup_pod_that_no_kubelet_ends_is_told(phase: str, is_leaving: bool) -> None:
    """Only the kubelet enforces the deadline and lets a leaving pod go; without it the deletion would wait unexplained."""
    created = (NOW - timedelta(seconds=661)).isoformat()
    metadata = {"name": "cleanup-1", "creationTimestamp": created}
    if is_leaving:
        metadata["deletionTimestamp"] = NOW.isoformat()
    judged = judge_cleanup_pod({"metadata": metadata, "status": {"phase": phase}}, CLEANUP, NOW)
    is_told = judged.outcome.message == (
        "/mnt/nvme0: the cleanup pod cleanup-1 does not end; does the node's kubelet answer?"
    )
    assert is_told == (is_leaving or phase not in ("Succeeded", "Failed"))
    assert (judged.outcome.state is Cleaning.DONE) == (phase == "Succeeded" and not is_leaving)
