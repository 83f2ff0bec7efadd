"""A pod that asks for half of a node's CPU, as the demo's engine does on two cores: the scenarios fit beside it or are wrong."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tests.e2e.kit.kube import Kube
from tests.e2e.kit.manifests import CONTROL_IMAGE, Manifest, make_namespace
from tests.e2e.kit.waiting import wait_for

NAMESPACE = "e2e-demo-shaped"
POD = "holds-half-of-the-cpu"


@contextmanager
def half_of_the_cpu_taken(kube: Kube) -> Iterator[None]:
    """Within it one node's pods have half of its CPU to ask for; nothing is used of the other half."""
    kube.apply(make_namespace(NAMESPACE), _pod(_millicores(kube) // 2))
    wait_for("the demo-shaped pod to run", lambda: _runs(kube), 60)
    yield
    kube.delete("v1", "Namespace", NAMESPACE)


def _millicores(kube: Kube) -> int:
    text = str(kube.items("v1", "Node")[0]["status"]["allocatable"]["cpu"])
    return int(text[:-1]) if text.endswith("m") else int(text) * 1000


def _runs(kube: Kube) -> bool:
    pod = kube.get("v1", "Pod", POD, NAMESPACE)
    assert pod is not None
    if pod["status"].get("phase") != "Running":
        raise AssertionError(kube.describe(pod))
    return True


def _pod(millicores: int) -> Manifest:
    container = {
        "name": "waits",
        "image": CONTROL_IMAGE,
        "imagePullPolicy": "IfNotPresent",
        "command": ["python3", "-c", "import signal; signal.pause()"],
        "resources": {"requests": {"cpu": f"{millicores}m"}},
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": POD, "namespace": NAMESPACE},
        "spec": {"terminationGracePeriodSeconds": 0, "containers": [container]},
    }
