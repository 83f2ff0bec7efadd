"""Without the operator a pod is injected and hits; without the webhook it serves plain."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from kubernetes import client

from tests.e2e.kit.engine import Engine, annotation, make_prompts, total
from tests.e2e.kit.kube import Kube
from tests.e2e.kit.manifests import make_engine, make_namespace, make_pool
from tests.e2e.kit.transcript import Transcript
from tests.e2e.kit.waiting import wait_for

pytestmark = pytest.mark.cluster

RELEASE_NAMESPACE = "spillway-system"
PROMPTS = make_prompts(2, 1100, seed=4)


@pytest.fixture(scope="module")
def namespace_name() -> str:
    return "e2e-control-plane"


@pytest.fixture(scope="module")
def engine(kube: Kube, host_path: Path, clean_namespace: str) -> Engine:
    kube.apply(make_namespace(clean_namespace), make_pool(clean_namespace, host_path=str(host_path)))
    kube.apply(*make_engine(clean_namespace))
    engine = Engine(kube, clean_namespace)
    engine.wait_ready()
    engine.ask_all(PROMPTS)
    engine.wait_durable(len(PROMPTS) * 4)
    return engine


def scaled_to_zero(kube: Kube, deployment: str) -> Iterator[None]:
    found = kube.get("apps/v1", "Deployment", deployment, RELEASE_NAMESPACE)
    assert found is not None, f"no Deployment {deployment} in {RELEASE_NAMESPACE}"
    kube.scale(RELEASE_NAMESPACE, deployment, 0)
    component = found["spec"]["selector"]["matchLabels"]
    selector = ",".join(f"{key}={value}" for key, value in component.items())
    wait_for(
        f"{deployment} to have no pod",
        lambda: not kube.items("v1", "Pod", RELEASE_NAMESPACE, label_selector=selector),
        60,
    )
    yield
    kube.scale(RELEASE_NAMESPACE, deployment, found["spec"]["replicas"])
    wait_for(
        f"{deployment} to be available again",
        lambda: (
            (kube.get("apps/v1", "Deployment", deployment, RELEASE_NAMESPACE) or {})
            .get("status", {})
            .get("availableReplicas", 0)
            >= 1
        ),
        120,
    )


@pytest.fixture
def no_operator(kube: Kube, engine: Engine) -> Iterator[None]:
    """Once its last status tells of the chunks that the engine stored: what it leaves behind is what a person sees then."""

    def chunks_on_nvme() -> int:
        tiers = kube.pool(engine.namespace)["status"].get("tiers") or []
        return sum(tier["chunks"] for tier in tiers if tier["name"] == "nvme")

    wait_for("the status to tell of the chunks", lambda: chunks_on_nvme() > 0, 120)
    yield from scaled_to_zero(kube, "spillway-operator")


@pytest.fixture
def no_webhook(kube: Kube) -> Iterator[None]:
    yield from scaled_to_zero(kube, "spillway-webhook")


def injection_ready(kube: Kube, namespace: str) -> str:
    condition = kube.condition(namespace, "InjectionReady")
    return str(condition and condition["status"])


@pytest.fixture
def left_out(kube: Kube, engine: Engine) -> Iterator[None]:
    """Replicas are ready and everything is sound, but the webhook is not called for pods of the namespace."""
    wait_for("InjectionReady", lambda: injection_ready(kube, engine.namespace) == "True", 60)
    hooks = client.AdmissionregistrationV1Api(kube.api)
    values = "/webhooks/0/namespaceSelector/matchExpressions/0/values"
    hooks.patch_mutating_webhook_configuration(
        "spillway", [{"op": "add", "path": f"{values}/-", "value": engine.namespace}]
    )
    yield
    configuration = kube.get("admissionregistration.k8s.io/v1", "MutatingWebhookConfiguration", "spillway")
    assert configuration is not None
    excluded = configuration["webhooks"][0]["namespaceSelector"]["matchExpressions"][0]["values"]
    at = excluded.index(engine.namespace)
    hooks.patch_mutating_webhook_configuration("spillway", [{"op": "remove", "path": f"{values}/{at}"}])
    wait_for("InjectionReady again", lambda: injection_ready(kube, engine.namespace) == "True", 60)


@pytest.mark.usefixtures("no_operator")
def test_pod_is_injected_and_hits_without_the_operator(engine: Engine, transcript: Transcript) -> None:
    engine.delete_pod()
    assert annotation(engine.pod(), "spillway.dev/status") is not None
    engine.ask_all(PROMPTS)
    assert engine.external_tokens() >= len(PROMPTS) * 1024
    assert total(engine.sidecar_metrics(), "spillway_hop_bytes_total", "hop=nvme_to_arena") > 0
    transcript.check("09-operator-down", engine.namespace)


@pytest.mark.usefixtures("no_webhook")
def test_pod_serves_plain_without_the_webhook(engine: Engine, transcript: Transcript) -> None:
    engine.delete_pod()
    pod = engine.pod()
    assert annotation(pod, "spillway.dev/status") is None
    assert not pod["spec"].get("initContainers")
    assert len(engine.ask(PROMPTS[0]).tokens) == 16
    assert engine.external_tokens() == 0
    transcript.check("10-webhook-down", engine.namespace)


@pytest.mark.usefixtures("left_out")
def test_webhook_that_is_not_called_is_not_ready_however_sound_it_looks(kube: Kube, engine: Engine) -> None:
    wait_for("InjectionReady to be False", lambda: injection_ready(kube, engine.namespace) == "False", 60)
    condition = kube.condition(engine.namespace, "InjectionReady")
    assert condition is not None
    assert "the webhook was not called" in condition["message"]
