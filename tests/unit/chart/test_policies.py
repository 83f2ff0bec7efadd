"""What the chart's admission policies let through, case by case."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import yaml
from policies import Policy
from spillway_operator.api import parse_pool
from spillway_operator.resources import DiskCleanup, build_cleanup_pod, build_config_map
from spillway_operator.resources.probe_pod import build_probe_pod

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


OPERATOR = "system:serviceaccount:spillway-system:spillway-operator"
IMAGE = "localhost/spillway-control:0.1.0"


@pytest.fixture(scope="module")
def config_maps(manifests: list[Manifest]) -> Policy:
    return Policy.find(manifests, "spillway-operator-config-maps")


def own_config_map(**metadata: Any) -> Manifest:
    """What the operator applies, stored."""
    spec = {"tiers": {"dram": {"capacity": "1Gi"}}}
    manifest = build_config_map(
        parse_pool({"metadata": {"name": "chat", "namespace": "team-a", "uid": POOL_UID}, "spec": spec})
    )
    return {**manifest, "metadata": {**manifest["metadata"], **metadata}}


def foreign_config_map(name: str = "chat-spillway") -> Manifest:
    return {"metadata": {"name": name, "namespace": "team-a"}, "data": {"a": "b"}}


def test_the_operator_writes_its_pools_config_maps_and_its_public_keys(config_maps: Policy) -> None:
    new = own_config_map()
    assert config_maps.refusals(new, user=OPERATOR) == []
    assert config_maps.refusals(new, old=own_config_map(labels={}), user=OPERATOR, operation="UPDATE") == []
    keys = foreign_config_map("spillway-status-keys")
    assert config_maps.refusals(keys, user=OPERATOR, namespace="spillway-system") == []


@pytest.mark.parametrize(
    "target",
    [
        foreign_config_map("extension-apiserver-authentication"), foreign_config_map(),
        own_config_map(name="other-spillway"), own_config_map(labels={}), own_config_map(ownerReferences=[]),
    ],
    ids=["foreign", "no-label", "other-name", "label-gone", "no-owner"],
)  # fmt: skip
def test_the_operator_writes_no_other_config_map(config_maps: Policy, target: Manifest) -> None:
    assert config_maps.refusals(target, old=target, user=OPERATOR, operation="UPDATE")
    assert config_maps.refusals(target, user=OPERATOR)
    assert config_maps.refusals(target, user="system:serviceaccount:team-a:default") == []


def test_the_operator_takes_over_nobodys_config_map(config_maps: Policy) -> None:
    (refusal,) = config_maps.refusals(own_config_map(), old=foreign_config_map(), user=OPERATOR, operation="UPDATE")
    assert "take over" in refusal


@pytest.fixture(scope="module")
def operator_pods(render: Callable[..., str]) -> Policy:
    rendered = render("hostPath.allowedPaths={/mnt/nvme0}")
    return Policy.find([m for m in yaml.safe_load_all(rendered) if m], "spillway-operator-pods")


def cleanup_pod() -> Manifest:
    cleanup = DiskCleanup("team-a", "chat", POOL_UID, "/mnt/nvme0", "node-1")
    return build_cleanup_pod(cleanup, release_namespace="spillway-system", image=IMAGE, pull_policy="Never")


def test_the_operator_creates_cleanup_pods(operator_pods: Policy) -> None:
    assert operator_pods.refusals(cleanup_pod(), user=OPERATOR, namespace="spillway-system") == []


def test_the_operator_creates_its_probe_as_a_dry_run_only(operator_pods: Policy) -> None:
    probe = build_probe_pod("team-a", IMAGE)
    assert operator_pods.refusals(probe, user=OPERATOR, namespace="team-a", dry_run=True) == []
    assert operator_pods.refusals(probe, user=OPERATOR, namespace="team-a")
    other = {**probe, "metadata": {**probe["metadata"], "labels": {"spillway.dev/pool": "chat"}}}
    assert operator_pods.refusals(other, user=OPERATOR, namespace="team-a", dry_run=True)


def _container(pod: Manifest) -> Manifest:
    container: Manifest = pod["spec"]["containers"][0]
    return container


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda pod: _container(pod).update(image="evil/control:1"), id="image"),
        pytest.param(lambda pod: _container(pod).update(command=["sh"]), id="command"),
        pytest.param(lambda pod: _container(pod)["command"].__setitem__(2, "spillway_operator"), id="module"),
        pytest.param(lambda pod: _container(pod).update(env=[{"name": "PYTHONPATH", "value": "/x"}]), id="environment"),
        pytest.param(lambda pod: _container(pod)["securityContext"].update(privileged=True), id="privileged"),
        pytest.param(
            lambda pod: _container(pod)["securityContext"]["capabilities"].update(add=["SYS_ADMIN"]), id="capability"
        ),
        pytest.param(lambda pod: pod["spec"].update(hostPID=True), id="host-pid"),
        pytest.param(lambda pod: pod["spec"].update(initContainers=[{"name": "x"}]), id="init-container"),
        pytest.param(lambda pod: pod["spec"]["containers"].append({"name": "x"}), id="second-container"),
        pytest.param(lambda pod: pod["spec"]["volumes"][0]["hostPath"].update(path="/"), id="root-of-the-node"),
        pytest.param(lambda pod: pod["spec"]["volumes"][0]["hostPath"].update(path="/mnt/nvme0/x"), id="below"),
        pytest.param(lambda pod: pod["spec"]["volumes"].append({"name": "s", "secret": {}}), id="second-volume"),
        pytest.param(lambda pod: pod["spec"].update(automountServiceAccountToken=True), id="token"),
        pytest.param(lambda pod: pod["metadata"].update(labels={}), id="label"),
    ],
)
def test_the_operator_creates_no_other_pod(operator_pods: Policy, change: Callable[[Manifest], None]) -> None:
    pod = cleanup_pod()
    change(pod)
    assert operator_pods.refusals(pod, user=OPERATOR, namespace="spillway-system")
    assert operator_pods.refusals(pod, namespace="spillway-system") == [], "other accounts are none of its business"


def stuck_pod(owner: str = "ReplicaSet", phase: str = "Pending", **state: Any) -> Manifest:
    metadata = {
        "name": "chat-0",
        "annotations": {"spillway.dev/status": "{}"},
        "ownerReferences": [{"kind": owner, "controller": True}],
    }
    status: Manifest = {"phase": phase, "containerStatuses": [{"restartCount": 0, "state": state or {"waiting": {}}}]}
    return {"metadata": metadata, "status": status}


@pytest.fixture
def deletes(manifests: list[Manifest]) -> Callable[..., bool]:
    policy = Policy.find(manifests, "spillway-operator-pod-deletions")

    def deletes(pod: Manifest, namespace: str = "team-a") -> bool:
        return not policy.refusals(None, old=pod, user=OPERATOR, operation="DELETE", namespace=namespace)

    return deletes


def test_the_operator_deletes_cleanup_pods_in_its_own_namespace_only(deletes: Callable[..., bool]) -> None:
    assert deletes(cleanup_pod(), "spillway-system")
    assert not deletes(cleanup_pod(), "team-a")
    webhook = {"metadata": {"name": "spillway-webhook-1", "labels": {"app.kubernetes.io/name": "spillway"}}}
    assert not deletes(webhook, "spillway-system")


def test_the_operator_deletes_injected_pods_that_never_began_and_are_made_again(deletes: Callable[..., bool]) -> None:
    assert deletes(stuck_pod())
    without_statuses = stuck_pod()
    del without_statuses["status"]["containerStatuses"]
    assert deletes(without_statuses)
    plain = stuck_pod()
    plain["metadata"]["annotations"] = {}
    for pod in (
        plain,
        stuck_pod(owner="Job"),
        stuck_pod(phase="Running"),
        stuck_pod(running={}),
        stuck_pod(terminated={}),
        {"metadata": {**stuck_pod()["metadata"], "ownerReferences": []}, "status": {"phase": "Pending"}},
    ):
        assert not deletes(pod)


def test_the_webhook_is_not_asked_about_mirror_pods(manifests: list[Manifest]) -> None:
    (webhook,) = next(m for m in manifests if m["kind"] == "MutatingWebhookConfiguration")["webhooks"]
    asks = Policy({"spec": {"matchConditions": webhook["matchConditions"], "validations": [
        {"expression": "false", "message": "asked"}]}})  # fmt: skip
    mirror = {"metadata": {"annotations": {"kubernetes.io/config.mirror": "x"}}}
    assert asks.refusals(mirror) == []
    assert asks.refusals({"metadata": {}}) == asks.refusals({"metadata": {"annotations": {"a": "b"}}}) == ["asked"]
