"""Nobody's container sees a volume of Spillway's that it was not given: at creation by the webhook, later by a policy."""

from __future__ import annotations

import pytest
from kubernetes.client.exceptions import ApiException

from tests.e2e.kit.kube import Kube, Manifest
from tests.e2e.kit.manifests import CONTROL_IMAGE, make_engine, make_namespace, make_pool

pytestmark = pytest.mark.cluster
STORE = {"name": "spillway-nvme", "mountPath": "/loot"}


@pytest.fixture(scope="module")
def namespace_name() -> str:
    return "e2e-volumes"


@pytest.fixture(scope="module")
def namespace(kube: Kube, clean_namespace: str) -> str:
    kube.apply(make_namespace(clean_namespace), make_pool(clean_namespace))
    return clean_namespace


def created(kube: Kube, namespace: str, name: str, *mounts: Manifest, dry_run: bool = False) -> Manifest:
    """A labelled pod that runs nowhere, its engine with further mounts."""
    template = make_engine(namespace)[0]["spec"]["template"]
    spec = {**template["spec"], "nodeSelector": {"no-such": "node"}}
    spec["containers"][0]["volumeMounts"] += mounts
    metadata = {"name": name, "namespace": namespace, "labels": template["metadata"]["labels"]}
    pods = kube.dynamic.resources.get(api_version="v1", kind="Pod")
    query = [("dryRun", "All")] if dry_run else []
    body = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
    return dict(pods.create(body=body, namespace=namespace, query_params=query).to_dict())


def test_an_undeclared_mount_is_not_given_the_volume(kube: Kube, namespace: str) -> None:
    """It is as the API server finds it without Spillway: a mount of no volume."""
    with pytest.raises(ApiException) as refused:
        created(kube, namespace, "thief", STORE, dry_run=True)
    assert "spec.containers[0].volumeMounts[1].name: Not found" in str(refused.value.body)


@pytest.mark.parametrize(("mounts", "is_admitted"), [([STORE], False), ([], True)], ids=["mounts-the-store", "plain"])
def test_an_ephemeral_container_is_admitted_without_the_store_only(
    kube: Kube, namespace: str, mounts: list[Manifest], is_admitted: bool
) -> None:
    if kube.get("v1", "Pod", "victim", namespace) is None:
        victim = created(kube, namespace, "victim")
        assert any(volume["name"] == "spillway-nvme" for volume in victim["spec"]["volumes"])
    debugger = {"name": "debugger", "image": CONTROL_IMAGE, "volumeMounts": mounts}
    body = {"spec": {"ephemeralContainers": [debugger]}}

    def add() -> None:
        kube.core.patch_namespaced_pod_ephemeralcontainers("victim", namespace, body, dry_run="All")

    if is_admitted:
        add()
        return
    with pytest.raises(ApiException) as refused:
        add()
    assert "an ephemeral container may not mount a volume of Spillway" in str(refused.value.body)
