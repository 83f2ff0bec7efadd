"""What the chart's admission policies let through, case by case."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import yaml
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


@pytest.fixture(scope="module")
def host_paths(render: Callable[..., str]) -> Policy:
    rendered = render("hostPath.allowedPaths={/mnt/nvme0,/mnt/nvme1}", "hostPath.exemptNamespaces={disks}")
    return Policy.find([m for m in yaml.safe_load_all(rendered) if m], "spillway-host-paths")


def pod_with(*paths: str) -> Manifest:
    volumes: list[Manifest] = [{"name": f"v{n}", "hostPath": {"path": path}} for n, path in enumerate(paths)]
    return {"metadata": {"name": "p"}, "spec": {"containers": [], "volumes": [{"name": "e", "emptyDir": {}}, *volumes]}}


POOL_UID = "3f1c7c58-6f0e-4a58-9c39-5f2f2a6d1b10"


@pytest.mark.parametrize(
    "path",
    [
        "/mnt/nvme0", "/mnt/nvme0/", "/mnt/./nvme0", "//mnt//nvme1", "/mnt/nvme0/team-a", f"/mnt/nvme0/team-b/{POOL_UID}",
        f"/mnt/nvme0/team-a-2/{POOL_UID}", f"/mnt/nvme0/team-a/{POOL_UID}/slot-0", "/mnt/nvme0/team-a/x", "/mnt/nvme0/team-a/./",
    ],
)  # fmt: skip
def test_no_pod_mounts_more_of_a_listed_folder_than_its_own_pools(host_paths: Policy, path: str) -> None:
    assert host_paths.refusals(pod_with(path), namespace="team-a")
    assert host_paths.refusals(pod_with(path), namespace="disks") == [], "whoever prepares the disks may"


@pytest.mark.parametrize("path", [f"/mnt/nvme0/team-a/{POOL_UID}", "/mnt/nvme01", "/var/log", "/mnt/models"])
def test_what_injection_adds_and_what_lies_elsewhere_is_admitted(host_paths: Policy, path: str) -> None:
    assert host_paths.refusals(pod_with(path), namespace="team-a") == []


def test_without_listed_folders_there_is_no_such_policy(manifests: list[Manifest]) -> None:
    assert "spillway-host-paths" not in [m["metadata"]["name"] for m in manifests]
