"""Pods that cannot start because of their sidecar start without one, in less than a minute, and nobody has to do anything."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.kit.engine import annotation
from tests.e2e.kit.kube import Kube, Manifest
from tests.e2e.kit.manifests import make_engine, make_namespace, make_pool
from tests.e2e.kit.waiting import wait_for

pytestmark = pytest.mark.cluster

# 15 s until a symptom counts, 10 s between two looks at Events, 3 s for the webhook to hear of it, and the pod that is made again.
HEALED_SECONDS = 90
SIDECAR: Manifest = {"resources": {"requests": {"cpu": "50m"}}}


@pytest.fixture(scope="module")
def namespace_name() -> str:
    return "e2e-breaker"


@pytest.fixture(scope="module")
def namespace(kube: Kube, clean_namespace: str) -> str:
    kube.apply(make_namespace(clean_namespace))
    return clean_namespace


@pytest.fixture(scope="module")
def waits_for_a_gpu(kube: Kube, namespace: str) -> Iterator[None]:
    """A pod that waits for what no node has, all the time that the other tests take."""
    kube.apply(make_pool(namespace, name="gpu"), idle_engine(namespace, "gpu", limits={"nvidia.com/gpu": "1"}))
    yield
    kube.delete("apps/v1", "Deployment", "gpu", namespace)


def idle_engine(namespace: str, pool: str, **resources: Any) -> Manifest:
    """A Deployment of a pod that injection takes for an engine and that need not load a model."""
    deployment = make_engine(namespace, name=pool, pool=pool)[0]
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    container.update(command=["sh", "-c", "sleep 600 # vllm serve"], args=[], resources=resources)
    del container["readinessProbe"]
    return deployment


def pods(kube: Kube, namespace: str, pool: str) -> list[Manifest]:
    found = kube.items("v1", "Pod", namespace, label_selector=f"spillway.dev/pool={pool}")
    return [pod for pod in found if not pod["metadata"].get("deletionTimestamp")]


def wait_plain(kube: Kube, namespace: str, pool: str, *reasons: str) -> Manifest:
    wanted = reasons or ("sidecar-unavailable",)

    def running_plain() -> Manifest | None:
        return next(
            (
                pod
                for pod in pods(kube, namespace, pool)
                if annotation(pod, "spillway.dev/skipped") in wanted and pod["status"]["phase"] == "Running"
            ),
            None,
        )

    return wait_for(f"a pod of {pool} to run without a sidecar", running_plain, HEALED_SECONDS)


def injection_condition(kube: Kube, namespace: str, pool: str) -> tuple[str, str]:
    condition = kube.condition(namespace, "InjectionReady", pool)
    assert condition is not None
    return condition["reason"], condition["message"]


@pytest.mark.usefixtures("waits_for_a_gpu")
def test_no_storage_class(kube: Kube, namespace: str) -> None:
    pool = make_pool(namespace, name="unbound")
    pool["spec"]["tiers"]["nvme"]["volume"] = {"type": "Ephemeral"}
    kube.apply(pool, idle_engine(namespace, "unbound"))
    pod = wait_plain(kube, namespace, "unbound")
    assert not pod["spec"].get("initContainers")
    reason, message = injection_condition(kube, namespace, "unbound")
    assert reason == "SidecarsCannotStart"
    assert "VolumeNotProvisioned" in message and "spillway-nvme" in message and "no storage class" in message


@pytest.mark.usefixtures("waits_for_a_gpu")
def test_storage_class_that_does_not_exist(kube: Kube, namespace: str) -> None:
    """Pool and workload in one file: the pod may be injected before the pool is found invalid."""
    pool = make_pool(namespace, name="mistyped")
    pool["spec"]["tiers"]["nvme"]["volume"] = {"type": "Ephemeral", "ephemeral": {"storageClassName": "no-such-class"}}
    kube.apply(pool, idle_engine(namespace, "mistyped"))
    wait_plain(kube, namespace, "mistyped", "sidecar-unavailable", "pool-invalid")


@pytest.mark.usefixtures("waits_for_a_gpu")
def test_sidecar_that_fits_no_node(kube: Kube, namespace: str) -> None:
    kube.apply(make_pool(namespace, name="large", dram="1500Gi", nvme=None), idle_engine(namespace, "large"))
    wait_plain(kube, namespace, "large")
    _, message = injection_condition(kube, namespace, "large")
    assert "DoesNotFit" in message and "Insufficient memory" in message


@pytest.mark.usefixtures("waits_for_a_gpu")
def test_image_that_cannot_be_pulled_and_its_mend(kube: Kube, namespace: str) -> None:
    image = "localhost/spillway-sidecar:no-such-tag"
    kube.apply(make_pool(namespace, name="pull", nvme=None, sidecar={**SIDECAR, "image": image}))
    kube.apply(idle_engine(namespace, "pull"))
    pod = wait_plain(kube, namespace, "pull")
    _, message = injection_condition(kube, namespace, "pull")
    assert "ImagePullBackOff" in message or "ErrImageNeverPull" in message

    kube.apply(make_pool(namespace, name="pull", nvme=None, sidecar=SIDECAR))
    wait_for(
        "InjectionReady after the mend", lambda: injection_condition(kube, namespace, "pull")[0] == "WebhookServing", 60
    )
    kube.delete("v1", "Pod", pod["metadata"]["name"], namespace)
    wait_for(
        "an injected pod that runs",
        lambda: any(
            annotation(p, "spillway.dev/status") and p["status"]["phase"] == "Running"
            for p in pods(kube, namespace, "pull")
        ),
        HEALED_SECONDS,
    )


@pytest.mark.usefixtures("waits_for_a_gpu")
def test_pod_that_waits_for_a_gpu_is_left_alone(kube: Kube, namespace: str) -> None:
    """Last: it has waited for as long as the others needed to be healed."""
    (pod,) = pods(kube, namespace, "gpu")
    assert annotation(pod, "spillway.dev/status") is not None
    (scheduled,) = (c for c in pod["status"]["conditions"] if c["type"] == "PodScheduled")
    assert "Insufficient nvidia.com/gpu" in scheduled["message"]
    assert "injection" not in kube.pool(namespace, "gpu")["status"]
    assert injection_condition(kube, namespace, "gpu")[0] == "WebhookServing"
