"""The chart's policies on a real API server: it takes their CEL, and refuses what they are for. Nothing is stored."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from kubernetes import client
from kubernetes.client.exceptions import ApiException

from dev.cluster.installation import NAMESPACE as RELEASE_NAMESPACE
from tests.e2e.kit.host_path import LISTED
from tests.e2e.kit.kube import Kube, Manifest
from tests.e2e.kit.manifests import make_namespace
from tests.e2e.kit.waiting import wait_for

pytestmark = pytest.mark.cluster

ACCOUNT = f"system:serviceaccount:{RELEASE_NAMESPACE}:spillway-operator"
POLICY = ("admissionregistration.k8s.io/v1", "ValidatingAdmissionPolicy")


@pytest.fixture(scope="module")
def namespace_name() -> str:
    return "e2e-rights"


@pytest.fixture(scope="module")
def namespace(kube: Kube, clean_namespace: str) -> str:
    kube.apply(make_namespace(clean_namespace))
    return clean_namespace


@pytest.fixture(scope="module")
def as_operator(kube: Kube) -> client.CoreV1Api:
    api = client.ApiClient(kube.api.configuration)
    api.set_default_header("Impersonate-User", ACCOUNT)
    return client.CoreV1Api(api)


def make_pod(**spec: Any) -> Manifest:
    return {"metadata": {"name": "probe"}, "spec": {"containers": [{"name": "c", "image": "evil"}], **spec}}


def test_the_api_server_finds_no_fault_in_our_policies(kube: Kube) -> None:
    def checked() -> bool:
        ours = [p for p in kube.items(*POLICY) if p["metadata"]["name"].startswith("spillway-")]
        assert len(ours) == 6
        return all((p.get("status") or {}).get("typeChecking") is not None for p in ours)

    wait_for("the policies to be type-checked", checked, 30)
    for policy in kube.items(*POLICY):
        warnings = ((policy.get("status") or {}).get("typeChecking") or {}).get("expressionWarnings")
        assert not warnings, f"{policy['metadata']['name']}: {warnings}"


def test_the_webhook_answers_nobody_but_the_api_server(kube: Kube) -> None:
    """A stranger within the cluster, who needs no token of anybody's to reach the Service."""
    service = kube.get("v1", "Service", "spillway-webhook", RELEASE_NAMESPACE)
    assert service is not None
    request = {"uid": "x", "namespace": RELEASE_NAMESPACE, "object": {"metadata": {}, "spec": {"containers": []}}}
    for path in ("/inject", "/inject/" + "0" * 64):
        url = f"https://{service['spec']['clusterIP']}{path}"
        answer = httpx.post(url, json={"request": request}, verify=False, trust_env=False)
        assert answer.status_code == 404, path
        assert "request" not in answer.text
    configuration = kube.get("admissionregistration.k8s.io/v1", "MutatingWebhookConfiguration", "spillway")
    assert configuration is not None
    (webhook,) = configuration["webhooks"]
    told = f"https://{service['spec']['clusterIP']}{webhook['clientConfig']['service']['path']}"
    assert httpx.post(told, json={"request": request}, verify=False, trust_env=False).status_code == 200


@pytest.mark.parametrize("role", ["view", "edit", "admin"])
def test_no_tenant_may_read_the_path_that_the_api_server_is_told(kube: Kube, namespace: str, role: str) -> None:
    account = f"reader-{role}"
    kube.apply(
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "RoleBinding",
            "metadata": {"name": account, "namespace": namespace},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
            "subjects": [{"kind": "User", "name": account, "apiGroup": "rbac.authorization.k8s.io"}],
        }
    )
    api = client.ApiClient(kube.api.configuration)
    api.set_default_header("Impersonate-User", account)
    with pytest.raises(ApiException) as refused:
        client.AdmissionregistrationV1Api(api).read_mutating_webhook_configuration("spillway")
    assert refused.value.status == 403


def test_the_operator_cannot_touch_a_foreign_config_map(as_operator: client.CoreV1Api) -> None:
    with pytest.raises(ApiException) as refused:
        as_operator.patch_namespaced_config_map(
            "extension-apiserver-authentication", "kube-system", {"data": {"x": "y"}}, dry_run="All"
        )
    assert "spillway-operator-config-maps" in str(refused.value.body)


def test_the_operator_cannot_create_a_privileged_pod(as_operator: client.CoreV1Api) -> None:
    pod = make_pod(hostPID=True, volumes=[{"name": "root", "hostPath": {"path": "/"}}])
    with pytest.raises(ApiException) as refused:
        as_operator.create_namespaced_pod(RELEASE_NAMESPACE, pod, dry_run="All")
    assert "spillway-operator-pods" in str(refused.value.body)


@pytest.mark.parametrize("dry_run", [True, False])
def test_the_webhook_may_ask_whether_a_pod_is_admissible_and_create_none(
    kube: Kube, namespace: str, dry_run: bool
) -> None:
    api = client.ApiClient(kube.api.configuration)
    api.set_default_header("Impersonate-User", f"system:serviceaccount:{RELEASE_NAMESPACE}:spillway-webhook")
    claim = {
        "metadata": {"name": "probe"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    }
    core = client.CoreV1Api(api)
    for create, body in (
        (core.create_namespaced_pod, make_pod()),
        (core.create_namespaced_persistent_volume_claim, claim),
    ):
        if dry_run:
            create(namespace, body, dry_run="All")
            continue
        with pytest.raises(ApiException) as refused:
            create(namespace, body)
        assert "spillway-webhook-dry-runs" in str(refused.value.body)


def test_no_pod_mounts_a_listed_folder(kube: Kube, namespace: str) -> None:
    pod = make_pod(volumes=[{"name": "loot", "hostPath": {"path": f"{LISTED[1]}/"}}])
    with pytest.raises(ApiException) as refused:
        kube.core.create_namespaced_pod(namespace, pod, dry_run="All")
    assert "spillway-host-paths" in str(refused.value.body)
