"""What the chart's admission policies let through, case by case."""

from __future__ import annotations

from typing import Any

import pytest
from policies import Policy

Manifest = dict[str, Any]


@pytest.fixture(scope="module")
def volumes(manifests: list[Manifest]) -> Policy:
    return Policy.find(manifests, "spillway-volumes")


def make_pod(*ephemeral: Manifest, injected: bool = True) -> Manifest:
    spec: Manifest = {"containers": [{"name": "server"}], "ephemeralContainers": list(ephemeral)}
    if injected:
        spec["initContainers"] = [{"name": "spillway-client"}, {"name": "spillway"}]
    return {"metadata": {"name": "chat-0"}, "spec": spec}


def debugger(name: str = "debugger", **mounts: Any) -> Manifest:
    return {"name": name, "image": "busybox", **mounts}


@pytest.mark.parametrize(
    "thief",
    [
        debugger(volumeMounts=[{"name": "models"}, {"name": "spillway-nvme", "mountPath": "/loot"}]),
        debugger(volumeDevices=[{"name": "spillway-nvme", "devicePath": "/loot"}]),
        debugger(volumeMounts=[{"name": "spillway-index", "mountPath": "/loot", "readOnly": True}]),
    ],
    ids=["mount", "device", "read-only"],
)
def test_no_ephemeral_container_mounts_a_volume_of_ours(volumes: Policy, thief: Manifest) -> None:
    (refusal,) = volumes.refusals(make_pod(thief), old=make_pod(), operation="UPDATE")
    assert "leave the mount out" in refusal


def test_an_injected_pod_can_be_debugged(volumes: Policy) -> None:
    plain = debugger(volumeMounts=[{"name": "models", "mountPath": "/models"}])
    assert volumes.refusals(make_pod(debugger(), plain), old=make_pod(), operation="UPDATE") == []
    before = debugger("before", volumeMounts=[{"name": "spillway-run", "mountPath": "/run"}])
    assert volumes.refusals(make_pod(before, plain), old=make_pod(before), operation="UPDATE") == []


def test_a_pod_without_our_sidecar_is_none_of_our_business(volumes: Policy) -> None:
    own = make_pod(debugger(volumeMounts=[{"name": "spillway-x", "mountPath": "/x"}]), injected=False)
    assert volumes.refusals(own, old=make_pod(injected=False), operation="UPDATE") == []
