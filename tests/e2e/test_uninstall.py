"""`helm uninstall` in any order, and the demo's removal from any state: nothing stays that cannot be deleted any more."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pytest

from demo import story
from demo.removal import Removal
from dev.cluster.installation import NAMESPACE as RELEASE_NAMESPACE
from dev.cluster.installation import Installation
from tests.e2e.kit.engine import annotation
from tests.e2e.kit.host_path import LISTED, ROOT, prepare
from tests.e2e.kit.kube import Kube, Manifest
from tests.e2e.kit.manifests import CONTROL_IMAGE, make_engine, make_namespace, make_pool
from tests.e2e.kit.waiting import wait_for

pytestmark = [pytest.mark.cluster, pytest.mark.long]

POOL = ("spillway.dev/v1alpha1", "KVCachePool", "chat")
CRD = ("apiextensions.k8s.io/v1", "CustomResourceDefinition", "kvcachepools.spillway.dev")
# The first process of a container gets no signal that it does not ask for.
UNTIL_TOLD = "import signal; signal.pthread_sigmask(signal.SIG_BLOCK, {15}); signal.sigwait({15})"
DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "uninstall.md"


@pytest.fixture(scope="module")
def namespace_name() -> str:
    return "e2e-uninstall"


@pytest.fixture(autouse=True)
def installed(kube: Kube, installation: Installation, namespace_name: str, host_path: Path) -> Iterator[None]:
    """Spillway serves before each test, and again after the last; a short patience keeps the tests short."""
    installation.install(LISTED, {"uninstall": {"finishSeconds": 10}})
    for name in (namespace_name, story.NAMESPACE):
        drop_namespace(kube, name)
    yield
    installation.install(LISTED)
    for name in (namespace_name, story.NAMESPACE):
        drop_namespace(kube, name)


def drop_namespace(kube: Kube, name: str) -> None:
    for pool in kube.items(*POOL[:2], name):
        kube.delete(*POOL[:2], pool["metadata"]["name"], name)
    kube.delete("v1", "Namespace", name)
    wait_for(f"namespace {name} to be gone", lambda: kube.get("v1", "Namespace", name) is None, 120)


def start(kube: Kube, namespace: str, folder: Path, deployment: str = "") -> Manifest:
    """A hostPath pool with one injected pod that loads no model, its sidecar ready; returns the pod."""
    kube.apply(make_namespace(namespace), make_pool(namespace, nvme="512Mi", host_path=str(folder)))
    template = make_engine(namespace)[0]["spec"]["template"]
    container = template["spec"]["containers"][0]
    container.update(command=["python3", "-c", UNTIL_TOLD], args=[], resources={})
    del container["readinessProbe"]
    metadata = {"name": "probe", "namespace": namespace, "labels": template["metadata"]["labels"]}
    kube.apply({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]})

    def recorded() -> Manifest:
        pod = kube.get("v1", "Pod", "probe", namespace)
        assert pod is not None
        pool = kube.pool(namespace)
        nodes = pool.get("status", {}).get("disk", {}).get("nodes")
        ready = {c["type"]: c["status"] for c in pod["status"].get("conditions", [])}.get("Ready") == "True"
        if not (nodes and ready and pool["metadata"].get("finalizers")):
            raise AssertionError(f"{kube.describe(pod)} {nodes}")
        return pod

    pod = wait_for("the pod to be ready and its node to be recorded", recorded, 90)
    assert annotation(pod, "spillway.dev/skipped") is None
    return pod


def pool_folder(kube: Kube, namespace: str, folder: Path) -> Path:
    return folder / namespace / kube.pool(namespace)["metadata"]["uid"]


def is_gone(kube: Kube, namespace: str) -> bool:
    """Whether the pool is gone, be it with its definition."""
    return kube.get(*CRD) is None or kube.get(*POOL, namespace) is None


def restarts(pod: Manifest) -> int:
    status = pod["status"]
    every = [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]
    return sum(int(container["restartCount"]) for container in every)


def test_a_living_pool_stays_with_its_pods_and_can_be_deleted(
    kube: Kube, installation: Installation, namespace_name: str, host_path: Path
) -> None:
    before = start(kube, namespace_name, host_path)
    folder = pool_folder(kube, namespace_name, host_path)
    said = installation.remove_release()
    assert f"pool {namespace_name}/chat stays, without an operator; its data stays in {folder} on nodes" in said
    assert before["spec"]["nodeName"] in said
    assert kube.pool(namespace_name)["metadata"].get("finalizers") is None
    after = kube.get("v1", "Pod", "probe", namespace_name)
    assert after is not None
    assert (after["metadata"]["uid"], restarts(after)) == (before["metadata"]["uid"], 0)
    left = [secret["metadata"]["name"] for secret in kube.items("v1", "Secret", RELEASE_NAMESPACE)]
    assert left == [], "what the operator made for itself goes too"
    kube.delete(*CRD)
    wait_for("the CRD to be gone with the pool", lambda: kube.get(*CRD) is None, 30)
    assert folder.exists(), "nobody who uninstalls loses data"


def test_a_pool_that_is_being_deleted_is_cleaned_first(
    kube: Kube, installation: Installation, namespace_name: str, host_path: Path
) -> None:
    start(kube, namespace_name, host_path)
    folder = pool_folder(kube, namespace_name, host_path)
    assert folder.exists()
    installation.install(LISTED, {"uninstall": {"finishSeconds": 90}})
    kube.delete("v1", "Pod", "probe", namespace_name)
    kube.delete(*POOL, namespace_name)
    said = installation.remove_release()
    assert is_gone(kube, namespace_name)
    assert not folder.exists(), said


def test_the_crd_deleted_first_while_a_pod_uses_its_pool(
    kube: Kube, installation: Installation, namespace_name: str, host_path: Path
) -> None:
    start(kube, namespace_name, host_path)
    folder = pool_folder(kube, namespace_name, host_path)
    kube.delete(*CRD)
    said = installation.remove_release()
    assert f"pool {namespace_name}/chat is deleted; its data stays in {folder}" in said
    wait_for("the CRD to be gone", lambda: kube.get(*CRD) is None, 30)


def test_the_release_namespace_deleted_first(
    kube: Kube, kubeconfig: str, installation: Installation, namespace_name: str, host_path: Path
) -> None:
    """No hook ran and nobody is left to ask: what docs/uninstall.md says then lets the pool go."""
    start(kube, namespace_name, host_path)
    kube.delete("v1", "Namespace", RELEASE_NAMESPACE)
    wait_for("the release namespace to be gone", lambda: kube.get("v1", "Namespace", RELEASE_NAMESPACE) is None, 90)
    kube.delete(*POOL, namespace_name)
    assert not is_gone(kube, namespace_name), "held by a finalizer that no operator removes"
    (command,) = re.findall(r"```sh\n(kubectl get kvpool -A.*?)```", DOCUMENT.read_text(), re.DOTALL)
    path = f"{installation.kubectl().parent.parent / 'tools'}:{os.environ['PATH']}"
    subprocess.run(["bash", "-euc", command], check=True, env={**os.environ, "KUBECONFIG": kubeconfig, "PATH": path})
    wait_for("the pool to be gone", lambda: is_gone(kube, namespace_name), 30)


@pytest.mark.parametrize("state", ["spillway-gone", "crd-half-deleted", "whole"])
def test_the_demo_is_removed_from_any_state(kube: Kube, installation: Installation, state: str) -> None:
    folder = ROOT / "e2e-quickstart"
    prepare(folder)
    start(kube, story.NAMESPACE, folder)
    if state == "spillway-gone":
        kube.delete("v1", "Namespace", RELEASE_NAMESPACE)
        wait_for("Spillway to be gone", lambda: kube.get("v1", "Namespace", RELEASE_NAMESPACE) is None, 90)
    elif state == "crd-half-deleted":
        kube.delete(*CRD)
    kube.delete("v1", "Pod", "probe", story.NAMESPACE)
    undone = Removal(kube, installation, CONTROL_IMAGE, PurePosixPath(folder)).run()
    assert undone == []
    assert kube.get("v1", "Namespace", story.NAMESPACE) is None
    assert kube.get("v1", "Namespace", RELEASE_NAMESPACE) is None
    assert kube.get(*CRD) is None
    assert not folder.exists()
