"""What the operator's own account may change of a pod, were it given the right to: no workload can be taken over with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from kubernetes import client
from kubernetes.client.exceptions import ApiException

from dev.cluster.installation import NAMESPACE as RELEASE_NAMESPACE
from tests.e2e.kit.kube import Kube, Manifest
from tests.e2e.kit.manifests import make_engine, make_namespace, make_pool
from tests.e2e.kit.waiting import wait_for

pytestmark = pytest.mark.cluster

ACCOUNT = f"system:serviceaccount:{RELEASE_NAMESPACE}:spillway-operator"
POD = "probe"
Change = Callable[[Manifest], None]


@pytest.fixture(scope="module")
def namespace_name() -> str:
    return "e2e-rights"


@pytest.fixture(scope="module")
def namespace(kube: Kube, clean_namespace: str) -> str:
    """With an injected pod, and a Role that lets the operator change pods, which the chart never gives."""
    metadata = {"name": "change-pods", "namespace": clean_namespace}
    group = "rbac.authorization.k8s.io"
    subject = {"kind": "ServiceAccount", "name": "spillway-operator", "namespace": RELEASE_NAMESPACE}
    kube.apply(
        make_namespace(clean_namespace),
        make_pool(clean_namespace),
        {
            "apiVersion": f"{group}/v1",
            "kind": "Role",
            "metadata": metadata,
            "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "update"]}],
        },
        {
            "apiVersion": f"{group}/v1",
            "kind": "RoleBinding",
            "metadata": metadata,
            "roleRef": {"apiGroup": group, "kind": "Role", "name": "change-pods"},
            "subjects": [subject],
        },
    )
    template = make_engine(clean_namespace)[0]["spec"]["template"]
    # It is looked at, not run.
    spec = {**template["spec"], "nodeSelector": {"no-such": "node"}}
    pod_metadata = {"name": POD, "namespace": clean_namespace, "labels": template["metadata"]["labels"]}
    kube.apply({"apiVersion": "v1", "kind": "Pod", "metadata": pod_metadata, "spec": spec})
    return clean_namespace


@pytest.fixture(scope="module")
def as_operator(kube: Kube, namespace: str) -> Callable[[Change], Any]:
    """Change the pod with the operator's account; nothing is stored."""
    api = client.ApiClient(kube.api.configuration)
    api.set_default_header("Impersonate-User", ACCOUNT)
    core = client.CoreV1Api(api)

    def change(how: Change) -> Any:
        pod = api.sanitize_for_serialization(core.read_namespaced_pod(POD, namespace))
        how(pod)
        return core.replace_namespaced_pod(POD, namespace, pod, dry_run="All")

    wait_for("the Role to be in force", lambda: change(lambda _pod: None), 20)
    return change


def init_container(pod: Manifest, name: str) -> Manifest:
    return next(c for c in pod["spec"]["initContainers"] if c["name"] == name)


def set_sidecar_image(image: str) -> Change:
    return lambda pod: init_container(pod, "spillway").update(image=image)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(set_sidecar_image("localhost/spillway-sidecar:dev2"), id="sidecar-image"),
        pytest.param(lambda pod: pod["metadata"]["labels"].update({"spillway.dev/x": "y"}), id="own-label"),
        pytest.param(lambda pod: pod["metadata"]["annotations"].update({"spillway.dev/x": "y"}), id="own-annotation"),
    ],
)
def test_its_own_things_may_change(as_operator: Callable[[Change], Any], change: Change) -> None:
    assert as_operator(change) is not None


@pytest.mark.parametrize(
    ("change", "says"),
    [
        pytest.param(
            lambda pod: pod["spec"]["containers"][0].update(image="evil/vllm"),
            "may not change a workload's own containers",
            id="engine-image",
        ),
        pytest.param(set_sidecar_image("evil/sidecar:1"), "images of an allowed repository", id="foreign-sidecar"),
        pytest.param(
            set_sidecar_image("localhost/spillway-sidecar-evil:1"),
            "images of an allowed repository",
            id="repository-that-begins-alike",
        ),
        pytest.param(
            lambda pod: init_container(pod, "spillway-client").update(image="localhost/spillway-sidecar:dev2"),
            "only the init container named spillway",
            id="another-init-container",
        ),
        pytest.param(
            lambda pod: pod["metadata"]["labels"].update({"app": "other"}), "only labels of spillway.dev", id="label"
        ),
        pytest.param(
            lambda pod: pod["metadata"]["labels"].pop("app"), "only labels of spillway.dev", id="label-removed"
        ),
        pytest.param(
            lambda pod: pod["metadata"]["annotations"].update({"cluster-autoscaler/x": "y"}),
            "only annotations of spillway.dev",
            id="annotation",
        ),
        pytest.param(
            lambda pod: pod["metadata"].update(finalizers=["example.com/stay"]),
            "may not change finalizers",
            id="finalizer",
        ),
    ],
)
def test_nothing_else_may(as_operator: Callable[[Change], Any], change: Change, says: str) -> None:
    with pytest.raises(ApiException) as refused:
        as_operator(change)
    assert "spillway-pod-changes" in str(refused.value.body)
    assert says in str(refused.value.body)
