"""The CRD in a real API server: each refused example is refused with its message, and defaults are stored."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes.client.exceptions import ApiException
from spillway_operator.api import names, parse_pool

from dev.cluster.installation import Installation
from dev.cluster.instance import E2E
from tests.e2e.kit.kube import Kube
from tests.e2e.kit.waiting import wait_for

REFUSED = Path(__file__).resolve().parents[2] / "golden" / "crd-refused"
NAMESPACE = "spillway-crd-test"
pytestmark = pytest.mark.cluster


@pytest.fixture(scope="session")
def kube() -> Iterator[Kube]:
    """The API server of the tests' own cluster, with the CRD of this tree."""
    installation = Installation.of(E2E)
    installation.install_crd()
    kube = Kube(installation.kubeconfig())
    kube.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    wait_for("the CRD to be served", lambda: _is_served(kube), 30)
    yield kube
    kube.delete("v1", "Namespace", NAMESPACE)


def _is_served(kube: Kube) -> bool:
    stored = kube.get("apiextensions.k8s.io/v1", "CustomResourceDefinition", names.CRD_NAME)
    conditions = ((stored or {}).get("status") or {}).get("conditions") or []
    return any(c["type"] == "Established" and c["status"] == "True" for c in conditions)


def placed(pool: dict[str, Any]) -> dict[str, Any]:
    return {**pool, "metadata": {**pool["metadata"], "namespace": NAMESPACE}}


@pytest.mark.parametrize("path", sorted(REFUSED.glob("*.yaml")), ids=lambda path: path.stem)
def test_refuses_with_a_message_that_a_person_can_act_on(kube: Kube, path: Path) -> None:
    text = path.read_text()
    expected = text.partition("\n")[0].removeprefix("# expect: ")
    *accepted, refused = [placed(pool) for pool in yaml.safe_load_all(text)]
    kube.apply(*accepted)
    with pytest.raises(ApiException) as caught:
        kube.apply(refused)
    kube.delete(refused["apiVersion"], "KVCachePool", refused["metadata"]["name"], NAMESPACE)
    message = yaml.safe_load(caught.value.body)["message"]
    assert caught.value.status == 422
    assert expected in message


def test_defaults_are_stored_and_are_the_models_own(kube: Kube) -> None:
    spec = {"tiers": {"dram": {"capacity": 2**30}, "nvme": {"capacity": "2Gi"}}}
    manifest = {
        "apiVersion": "spillway.dev/v1alpha1",
        "kind": "KVCachePool",
        "metadata": {"name": "defaults", "namespace": NAMESPACE},
        "spec": spec,
    }
    kube.apply(manifest)
    stored = kube.get("spillway.dev/v1alpha1", "KVCachePool", "defaults", NAMESPACE)
    assert stored is not None
    assert stored["spec"]["tiers"]["nvme"]["volume"] == {"type": "Ephemeral"}, "no member of the union is created"
    assert stored["spec"]["tiers"]["dram"]["capacity"] == 2**30, "an integer stays one"
    ours = parse_pool({**manifest, "metadata": stored["metadata"]}).spec
    assert parse_pool(stored).spec == ours


def test_named_user_can_be_given_up(kube: Kube) -> None:
    """The way out for a pool whose user is another's; run-as-user-*.yaml have what is refused."""
    pool: dict[str, Any] = {
        "apiVersion": "spillway.dev/v1alpha1",
        "kind": "KVCachePool",
        "metadata": {"name": "named", "namespace": NAMESPACE},
        "spec": {"tiers": {"dram": {"capacity": "1Gi"}}, "sidecar": {"securityContext": {"runAsUser": 1000}}},
    }
    kube.apply(pool)
    kube.patch(
        "spillway.dev/v1alpha1",
        "KVCachePool",
        "named",
        NAMESPACE,
        {"spec": {"sidecar": {"securityContext": {"runAsUser": None}}}},
    )
    stored = kube.get("spillway.dev/v1alpha1", "KVCachePool", "named", NAMESPACE)
    assert stored is not None and "runAsUser" not in stored["spec"]["sidecar"]["securityContext"]


def test_volume_type_can_be_changed_until_data_outlives_the_pods(kube: Kube) -> None:
    """No stored default stands in the way of another type; HostPath, once chosen, stays (see host-path-left.yaml)."""

    def pool(volume: dict[str, Any]) -> dict[str, Any]:
        return {
            "apiVersion": "spillway.dev/v1alpha1",
            "kind": "KVCachePool",
            "metadata": {"name": "changing", "namespace": NAMESPACE},
            "spec": {"tiers": {"dram": {"capacity": "1Gi"}, "nvme": {"capacity": "2Gi", "volume": volume}}},
        }

    kube.apply(pool({}))
    kube.apply(pool({"type": "EmptyDir", "emptyDir": {"sizeLimit": "4Gi"}}))
    kube.apply(pool({"type": "Ephemeral"}))
    kube.apply(pool({"type": "HostPath", "hostPath": {"path": "/mnt/nvme0"}}))
    kube.apply(pool({"type": "HostPath", "hostPath": {"path": "/mnt/nvme0", "maxPodsPerNode": 2}}))
