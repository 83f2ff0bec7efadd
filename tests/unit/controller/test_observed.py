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


def test_a_full_list_removes_what_a_watch_missed() -> None:
    observed = Observed()
    observed.put_pool(make_pool_body())
    observed.put_pod(make_pod_body())
    assert observed.replace_all([], [], []) == {CHAT}
    assert observed.pool(CHAT) is None
    assert observed.pods(CHAT) == []
