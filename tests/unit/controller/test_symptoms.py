"""What of ours keeps a pod from starting, and what is not ours."""

from __future__ import annotations

from typing import Any

import pytest
from controller_builders import make_pod_body
from spillway_operator.controller.symptoms import find_symptom

OURS = {"name": "spillway-nvme", "ephemeral": {"volumeClaimTemplate": {}}}
THEIRS = {"name": "models", "persistentVolumeClaim": {"claimName": "models"}}
SIDECAR = {"name": "spillway", "resources": {"requests": {"memory": "2Gi", "cpu": "100m"}}}


def pending(message: str = "", *volumes: dict[str, Any], node: str = "") -> dict[str, Any]:
    body = make_pod_body("chat-0", ready=False, phase="Pending", node=node)
    body["spec"] |= {"volumes": list(volumes), "initContainers": [SIDECAR]}
    if message:
        body["status"]["conditions"].append(
            {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
        )
    return body


def found(body: dict[str, Any]) -> tuple[str, bool] | None:
    symptom = find_symptom(body)
    return None if symptom is None else (symptom.reason, symptom.proven)


@pytest.mark.parametrize(
    ("message", "volumes", "expected"),
    [
        ("0/4 nodes are available: 4 Insufficient nvidia.com/gpu.", [OURS], None),
        ("0/4 nodes are available: 1 Insufficient memory, 4 Insufficient nvidia.com/gpu. preemption: 0/4 ...", [], None),
        (
            "0/4 nodes are available: 1 Insufficient memory, 3 Insufficient nvidia.com/gpu. preemption: 0/4 nodes are "
            "available: 1 No preemption victims found for incoming pod.",
            [],
            ("DoesNotFit", True),
        ),
        ("0/1 nodes are available: 1 Insufficient memory. no new claims to deallocate, preemption: ...", [],
         ("DoesNotFit", True)),
        ("0/1 nodes are available: 1 Insufficient ephemeral-storage.", [], None),
        ("0/3 nodes are available: 3 node(s) had untolerated taint {node.kubernetes.io/not-ready: }.", [OURS], None),
        ("0/1 nodes are available: 1 Too many pods.", [], None),
        ("0/1 nodes are available: 1 node(s) did not have enough free storage.", [OURS], ("VolumeNotProvisioned", True)),
        ("0/1 nodes are available: 1 node(s) did not have enough free storage.", [OURS, THEIRS],
         ("VolumeNotProvisioned", False)),
        ("0/1 nodes are available: 1 node(s) didn't find available persistent volumes to bind.", [THEIRS], None),
        ("0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims. not found", [OURS],
         ("VolumeNotProvisioned", False)),
        ("0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims.", [THEIRS], None),
        (
            '0/1 nodes are available: waiting for ephemeral volume controller to create the persistentvolumeclaim '
            '"chat-0-spillway-nvme". not found',
            [OURS, THEIRS],
            ("VolumeNotProvisioned", False),
        ),
        ('0/1 nodes are available: persistentvolumeclaim "models" not found.', [OURS, THEIRS], None),
        ("no nodes available to schedule pods", [OURS], None),
    ],
)  # fmt: skip
def test_pod_without_a_node(message: str, volumes: list[dict[str, Any]], expected: tuple[str, bool] | None) -> None:
    assert found(pending(message, *volumes)) == expected


@pytest.mark.parametrize("reason", ["CrashLoopBackOff", "CreateContainerConfigError", "InvalidImageName"])
def test_container_of_ours_that_cannot_start(reason: str) -> None:
    assert found(make_pod_body(ready=False, waiting=reason)) == (reason, True)


def test_kubelet_that_backs_off_says_one_thing() -> None:
    refused, waits = (find_symptom(make_pod_body(waiting=word)) for word in ("ErrImagePull", "ImagePullBackOff"))
    assert refused == waits


def test_container_of_the_users_is_not_ours() -> None:
    body = pending(node="node-1")
    body["status"]["initContainerStatuses"] = [
        {"name": "spillway", "state": {"running": {}}},
        {"name": "fetch", "state": {"waiting": {"reason": "ImagePullBackOff"}}},
    ]
    assert found(body) is None


def test_pod_on_its_node_that_has_begun_nothing_may_wait_for_a_volume_of_ours() -> None:
    body = pending(node="node-1")
    assert found(body) == ("VolumeNotAttached", False)
    body["status"]["initContainerStatuses"] = [{"name": "fetch", "state": {"running": {}}}]
    assert found(body) is None


def test_scheduler_that_waits_for_our_claim_without_a_word_proves_nothing() -> None:
    assert found(pending("", OURS)) == ("VolumeNotProvisioned", False)
    assert found(pending("", THEIRS)) is None
    gated = pending("", OURS)
    gated["status"]["conditions"].append({"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"})
    assert found(gated) is None


def test_pod_without_a_sidecar_has_no_symptom() -> None:
    from spillway_operator.controller.observed import parse_pod

    view = parse_pod(make_pod_body(injected=False, waiting="ImagePullBackOff"))
    assert view is not None
    assert view.symptom is None
