"""Spillway installed once per run on a cluster of the tests' own; a namespace and a folder of its own per module."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from kubernetes.dynamic.exceptions import NotFoundError

from dev.cluster.installation import Installation
from dev.cluster.instance import E2E
from tests.e2e.kit import host_path as host_paths
from tests.e2e.kit.demo_shaped import half_of_the_cpu_taken
from tests.e2e.kit.kube import Kube
from tests.e2e.kit.transcript import Transcript
from tests.e2e.kit.waiting import wait_for

POOLS = ("spillway.dev/v1alpha1", "KVCachePool")


@pytest.fixture(scope="session")
def installation() -> Installation:
    """Spillway on the tests' own cluster; whoever else's Spillway is met there is refused."""
    return Installation.of(E2E)


@pytest.fixture(scope="session")
def kubeconfig(installation: Installation) -> str:
    """Kubeconfig of the cluster that `make test-e2e` brought up."""
    return installation.kubeconfig()


@pytest.fixture(scope="session")
def kube(kubeconfig: str, installation: Installation) -> Iterator[Kube]:
    """The API server, with Spillway installed from charts/spillway and serving."""
    host_paths.NOT_PREPARED.mkdir(parents=True, exist_ok=True)
    installation.install(host_paths=host_paths.LISTED)
    kube = Kube(kubeconfig)
    with half_of_the_cpu_taken(kube):
        yield kube
    if not os.environ.get("SPILLWAY_KEEP_CLUSTER"):
        installation.uninstall()
        shutil.rmtree(host_paths.ROOT, ignore_errors=True)


@pytest.fixture(scope="session")
def transcript(kube: Kube, kubeconfig: str, installation: Installation) -> Transcript:
    """What kubectl says at a step, held to docs/transcript/."""
    return Transcript(installation.kubectl(), kubeconfig)


@pytest.fixture(scope="session")
def second_sidecar_image() -> str:
    """The same sidecar under another tag."""
    return "localhost/spillway-sidecar:dev2"


@pytest.fixture(scope="session")
def swapping_sidecar_image() -> str:
    """A sidecar built with the feature `swap-chunks`: it swaps payloads of chunks after they were verified."""
    return "localhost/spillway-sidecar:dev-swap"


@pytest.fixture(scope="module")
def host_path(namespace_name: str) -> Iterator[Path]:
    """The prepared folder of one module's pools."""
    folder = host_paths.ROOT / namespace_name
    shutil.rmtree(folder, ignore_errors=True)
    host_paths.prepare(folder)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def clean_namespace(kube: Kube, namespace_name: str, host_path: Path) -> Iterator[str]:
    """The module's namespace: absent before the tests make it, gone with all its pods after them.

    The folder has to outlive it, because a pool goes only when its data is gone from there.
    """

    def gone() -> bool:
        return kube.get("v1", "Namespace", namespace_name) is None

    kube.delete("v1", "Namespace", namespace_name)
    # An earlier run that was killed left pools whose folder `host_path` has just made anew: nothing is there to clean.
    for pool in kube.items(*POOLS, namespace_name):
        with suppress(NotFoundError):
            kube.patch(*POOLS, pool["metadata"]["name"], namespace_name, {"metadata": {"finalizers": None}})
    wait_for(f"namespace {namespace_name} of an earlier run to be gone", gone, 120)
    yield namespace_name
    for pool in kube.items(*POOLS, namespace_name):
        kube.delete(*POOLS, pool["metadata"]["name"], namespace_name)
    kube.delete("v1", "Namespace", namespace_name)
    wait_for(f"namespace {namespace_name} to be gone", gone, 180)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The Kubernetes client leaves the socket of an exec to the garbage collector, in whichever test that runs."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"))


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """On failure, show the pods and the pool of the test's namespace: what an on-call person would look at first."""
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    kube = getattr(item, "funcargs", {}).get("kube")
    namespace = getattr(item, "funcargs", {}).get("namespace_name")
    if report.failed and isinstance(kube, Kube) and namespace:
        lines = []
        for pod in kube.items("v1", "Pod", namespace):
            name = pod["metadata"]["name"]
            lines.append(f"pod {name}: {kube.describe(pod)}")
            lines.append(f"sidecar's log:\n{kube.logs(namespace, name, 'spillway')}")
        for pool in kube.items(*POOLS, namespace):
            lines.append(f"pool {pool['metadata']['name']}: {pool.get('status')}")
        report.sections.append((f"namespace {namespace}", "\n".join(lines)))
