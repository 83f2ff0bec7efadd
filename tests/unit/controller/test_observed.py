"""What the controller keeps of what it sees."""

from __future__ import annotations

import json
from typing import Any

import pytest
from controller_builders import POOL_UID, make_pod, make_pod_body, make_pool_body
from spillway_operator.controller.observed import Observed, PoolKey, parse_pod
from spillway_operator.controller.symptoms import Symptom

CHAT, OTHER = PoolKey("team-a", "chat"), PoolKey("team-a", "other")


def test_a_pod_is_kept_in_less_than_a_kilobyte() -> None:
    long = "x" * 253
    status = json.dumps({"poolUid": "u" * 5000})
    body = make_pod_body(long, annotations={"spillway.dev/skipped": "y" * 5000, "spillway.dev/status": status})
    assert len(repr(parse_pod(body)).encode()) < 1024


@pytest.mark.parametrize(
    ("overrides", "field", "value"),
    [
        ({}, "injected", True),
        ({"injected": False}, "injected", False),
        ({}, "pool_uid", POOL_UID),
        ({"injected": False}, "pool_uid", ""),
        ({"annotations": {"spillway.dev/status": "{}"}}, "pool_uid", ""),
        ({"phase": "Failed"}, "ended", True),
        ({"deletionTimestamp": "2026-11-24T12:00:00Z"}, "ended", False),
        ({"annotations": {"spillway.dev/status": "no json"}}, "injected", False),
        (
            {"waiting": "ErrImagePull"},
            "symptom",
            Symptom("ImagePullBackOff", "the kubelet cannot start container spillway"),
        ),
        ({"annotations": {"spillway.dev/status": '{"port": 9465}'}}, "http_port", 9465),
        ({"annotations": {"spillway.dev/status": '{"port": "x"}'}}, "http_port", 9464),
        ({"waiting": "PodInitializing"}, "symptom", None),
        ({"deletionTimestamp": "2026-11-24T12:00:00Z"}, "live", False),
        ({"injected": False}, "bare", True),
        ({"injected": False, "labels": {"spillway.dev/inject": "false"}}, "bare", False),
    ],
)
def test_projection(overrides: dict[str, Any], field: str, value: object) -> None:
    assert getattr(make_pod(**overrides), field) == value


def test_a_pod_that_returns_under_its_name_is_the_only_one_of_it() -> None:
    observed = Observed()
    observed.put_pod(make_pod_body("chat-0", uid="first"))
    assert observed.put_pod(make_pod_body("chat-0", uid="second")) == {CHAT}
    assert [pod.uid for pod in observed.pods(CHAT)] == ["second"]
    assert observed.drop_pod("first") == set()
    assert [pod.uid for pod in observed.pods(CHAT)] == ["second"]
    assert observed.drop_pod("second") == {CHAT}
    assert observed.put_pod(make_pod_body("chat-0", uid="third")) == {CHAT}


def test_a_pod_without_the_label_is_nobodys() -> None:
    observed = Observed()
    observed.put_pod(make_pod_body())
    body = make_pod_body()
    del body["metadata"]["labels"]["spillway.dev/pool"]
    assert observed.put_pod(body) == {CHAT}
    assert observed.pods(CHAT) == []


def test_a_pod_that_changes_its_pool_concerns_both() -> None:
    observed = Observed()
    assert observed.put_pod(make_pod_body()) == {CHAT}
    assert observed.put_pod(make_pod_body(labels={"spillway.dev/pool": "other"})) == {CHAT, OTHER}
    assert (len(observed.pods(CHAT)), len(observed.pods(OTHER))) == (0, 1)


def test_a_pod_stays_its_pools_whatever_its_label_says_since() -> None:
    observed = Observed()
    observed.put_pod(make_pod_body("moved", labels={"spillway.dev/pool": "other"}))
    observed.put_pod(make_pod_body("ended", phase="Failed"))
    observed.put_pod(make_pod_body("plain", injected=False))
    observed.put_pod(make_pod_body("forged", namespace="team-b"))
    assert [pod.name for pod in observed.injected_for("team-a", POOL_UID)] == ["ended", "moved"]


def test_a_pod_event_that_changes_nothing_we_keep_concerns_nobody() -> None:
    observed = Observed()
    observed.put_pod(make_pod_body())
    assert observed.put_pod(make_pod_body(annotations={"unrelated": "1"})) == set()


def test_an_older_state_of_a_pool_does_not_overwrite_a_newer() -> None:
    observed = Observed()
    observed.put_pool(make_pool_body(metadata={"resourceVersion": "20"}))
    observed.put_pool(make_pool_body(metadata={"resourceVersion": "9"}))
    stored = observed.pool(CHAT)
    assert stored is not None
    assert stored["metadata"]["resourceVersion"] == "20"
    observed.put_pool(make_pool_body(metadata={"resourceVersion": "9", "uid": "made again under the same name"}))
    stored = observed.pool(CHAT)
    assert stored is not None
    assert stored["metadata"]["resourceVersion"] == "9"


@pytest.mark.parametrize("uid", [POOL_UID, "made again under the same name"])
def test_what_is_gone_is_not_brought_back_by_the_answer_to_an_earlier_write(uid: str) -> None:
    """The write was answered before the end, and its answer is read after it, and after the successor perhaps."""
    observed = Observed()
    observed.put_pool(make_pool_body(metadata={"resourceVersion": "5"}))
    observed.drop_pool({"metadata": {"namespace": "team-a", "name": "chat", "uid": POOL_UID, "resourceVersion": "9"}})
    if uid != POOL_UID:
        observed.put_pool(make_pool_body(metadata={"resourceVersion": "10", "uid": uid}))
    observed.put_pool(make_pool_body(metadata={"resourceVersion": "7"}))
    stored = observed.pool(CHAT)
    assert (stored and stored["metadata"]["uid"]) == (None if uid == POOL_UID else uid)
    assert (observed.claim(CHAT) is None) is (uid == POOL_UID)


def make_config_map(name: str, pool: str = "chat", version: int = 1) -> dict[str, Any]:
    labels = {"spillway.dev/pool": pool}
    metadata = {"namespace": "team-a", "name": name, "uid": f"uid-{name}", "resourceVersion": str(version)}
    return {"metadata": {**metadata, "labels": labels}, "data": {"from": name}}


def test_a_config_map_with_the_pools_label_does_not_stand_for_the_pools_own() -> None:
    observed = Observed()
    observed.put_config_map(make_config_map("chat-spillway"))
    assert observed.put_config_map(make_config_map("theirs")) == {CHAT}
    own = observed.config_map("team-a", "chat-spillway")
    assert own is not None
    assert own["data"] == {"from": "chat-spillway"}
    assert observed.drop_config_map(make_config_map("theirs", version=2)) == {CHAT}
    assert observed.config_map("team-a", "chat-spillway") == own


def test_a_config_map_that_comes_back_to_its_label_is_seen_again() -> None:
    """To a watch by label, an object without the label is gone."""
    observed = Observed()
    observed.put_config_map(make_config_map("chat-spillway"))
    end = {"namespace": "team-a", "name": "chat-spillway", "uid": "uid-chat-spillway", "resourceVersion": "5"}
    assert observed.drop_config_map({"metadata": end}) == {CHAT}, "of one that went unseen there are no labels"
    assert observed.put_config_map(make_config_map("chat-spillway", version=6)) == {CHAT}
    assert observed.config_map("team-a", "chat-spillway") is not None


def test_the_pods_that_were_injected_for_a_pool_follow_every_change() -> None:
    observed = Observed()
    observed.put_pod(make_pod_body("a"))
    observed.put_pod(make_pod_body("a", phase="Failed"))
    assert [pod.phase for pod in observed.injected_for("team-a", POOL_UID)] == ["Failed"]
    observed.put_pod(make_pod_body("a", injected=False))
    assert observed.injected_for("team-a", POOL_UID) == []
    observed.put_pod(make_pod_body("a"))
    (pod,) = observed.injected_for("team-a", POOL_UID)
    observed.drop_pod(pod.uid)
    assert observed.injected_for("team-a", POOL_UID) == []


def test_pods_to_read_are_those_with_a_sidecar_that_run_and_have_an_address() -> None:
    observed = Observed()
    view = observed.injected_pods
    seen = ["uid-a", "uid-plain", "uid-ended", "uid-leaving", "uid-of-the-next"]
    for name, overrides in {
        "a": {}, "plain": {"injected": False}, "ended": {"phase": "Failed"}, "leaving": {"deletionTimestamp": "2026-11-24T12:00:00Z"},
    }.items():  # fmt: skip
        observed.put_pod(make_pod_body(name, **overrides))
    assert [uid for uid in seen if uid in view] == ["uid-a"]
    observed.put_pod(make_pod_body("a", labels={"spillway.dev/pool": "other"}))
    moved = view.get("uid-a")
    assert moved is not None
    assert moved.key == OTHER
    observed.put_pod(make_pod_body("a", phase="Succeeded"))
    assert len(view) == 0
    observed.put_pod(make_pod_body("a"))
    observed.put_pod(make_pod_body("a", uid="uid-of-the-next"))
    assert [uid for uid in seen if uid in view] == ["uid-of-the-next"]
    observed.drop_pod("uid-of-the-next")
    assert len(view) == 0
