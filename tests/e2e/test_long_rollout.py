"""A rollout of 500 pods that no kubelet runs, before the installed operator: how often it writes the pool's status."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Any

import pytest
from kubernetes import client, watch
from urllib3.exceptions import HTTPError

from tests.e2e.kit.kube import Kube
from tests.e2e.kit.manifests import make_namespace, make_pool
from tests.e2e.kit.waiting import wait_for

pytestmark = [pytest.mark.cluster, pytest.mark.long]

PODS = 500
AT_ONCE = 50


@pytest.fixture(scope="module")
def namespace_name() -> str:
    return "e2e-rollout"


class Pods:
    """Pods for which no scheduler looks; their states are written as a kubelet would write them."""

    def __init__(self, core: Any, namespace: str) -> None:
        self._core = core
        self._namespace = namespace

    def create(self, name: str) -> None:
        container = {"name": "server", "image": "vllm/vllm-openai:v0.32.0"}
        metadata = {"name": name, "labels": {"spillway.dev/pool": "chat"}}
        spec = {"schedulerName": "nobody", "containers": [container]}
        created = self._core.create_namespaced_pod(self._namespace, {"metadata": metadata, "spec": spec})
        assert "spillway.dev/status" in created.metadata.annotations, created.metadata.annotations

    def start(self, name: str) -> None:
        now = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        ready = {"type": "Ready", "status": "True", "lastTransitionTime": now}
        self._core.patch_namespaced_pod_status(
            name, self._namespace, {"status": {"phase": "Running", "conditions": [ready]}}
        )

    def delete(self, name: str) -> None:
        self._core.delete_namespaced_pod(name, self._namespace, grace_period_seconds=0)


@contextmanager
def counted_writes(kube: Kube, namespace: str) -> Iterator[Callable[[], int]]:
    """How often the status of the namespace's pool was written, as a watch tells."""
    seen: list[dict[str, Any]] = [kube.pool(namespace).get("status") or {}]
    stream = watch.Watch()

    def follow() -> None:
        custom = client.CustomObjectsApi(kube.api)
        watched = ("spillway.dev", "v1alpha1", namespace, "kvcachepools")
        # It is stopped by cutting its stream.
        with suppress(HTTPError):
            for event in stream.stream(custom.list_namespaced_custom_object, *watched, timeout_seconds=1200):
                status = event["object"].get("status") or {}
                if status != seen[-1]:
                    seen.append(status)

    following = threading.Thread(target=follow, daemon=True)
    following.start()

    def count() -> int:
        assert following.is_alive(), "the watch ended before its time"
        return len(seen) - 1

    try:
        yield count
    finally:
        stream.stop()
        following.join(10)


def test_rollout_of_500_pods_costs_fewer_than_20_status_writes(kube: Kube, clean_namespace: str) -> None:
    kube.apply(make_namespace(clean_namespace), make_pool(clean_namespace, nvme=None))
    pods = Pods(kube.core, clean_namespace)

    def counts() -> dict[str, int]:
        return dict((kube.pool(clean_namespace).get("status") or {}).get("pods") or {})

    def whole() -> bool:
        return (counts().get("labelled"), counts().get("ready")) == (PODS, PODS)

    def is_rolled() -> bool:
        members = (kube.pool(clean_namespace).get("status") or {}).get("members") or []
        return all(member["pod"].startswith("chat-1-") for member in members)

    with ThreadPoolExecutor(8) as executor:
        for act in (pods.create, pods.start):
            list(executor.map(act, [f"chat-0-{number}" for number in range(PODS)]))
        wait_for("the pool to count its pods", whole, 120)
        with counted_writes(kube, clean_namespace) as count:
            for first in range(0, PODS, AT_ONCE):
                batch = range(first, first + AT_ONCE)
                for act, generation in ((pods.create, 1), (pods.start, 1), (pods.delete, 0)):
                    list(executor.map(act, [f"chat-{generation}-{number}" for number in batch]))
            wait_for("the pool to count the new pods", lambda: whole() and is_rolled(), 180)
            ready = kube.condition(clean_namespace, "Ready")
            assert ready is not None
            assert ready["status"] == "True"
            print(f"{count()} status writes for {PODS} pods")
            assert count() < 20
