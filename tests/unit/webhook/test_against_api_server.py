"""The webhook beside a real API server: what it reads there, and whether what it answers is admitted there."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from certificates import TOKEN, write_certificate, write_token
from reviews import make_pod, make_review, patched
from spillway_operator.api import names, parse_pool
from spillway_operator.injection import Facts, inject
from spillway_operator.kube.access import find_access
from spillway_operator.webhook.server import serve
from spillway_operator.webhook.settings import WebhookSettings

from dev.cluster.installation import Installation
from dev.cluster.instance import E2E
from tests.e2e.kit.kube import Kube
from tests.e2e.kit.waiting import wait_for

pytestmark = pytest.mark.cluster
NAMESPACE = "spillway-webhook-test"
POOL: dict[str, Any] = {
    "apiVersion": "spillway.dev/v1alpha1",
    "kind": "KVCachePool",
    "metadata": {"name": "chat", "namespace": NAMESPACE},
    "spec": {"tiers": {"dram": {"capacity": "64Mi"}, "nvme": {"capacity": "64Mi"}}},
}
SETTINGS = {"sidecar_image": "registry.example/sidecar:1", "port": 0, "http_port": 0}


@pytest.fixture(scope="module")
def kube() -> Iterator[Kube]:
    """The API server of the tests' own cluster with the CRD of this tree; a namespace that enforces `restricted`."""
    installation = Installation.of(E2E)
    # `find_access` reads it, as it does outside of a cluster.
    os.environ["KUBECONFIG"] = installation.kubeconfig()
    installation.install_crd()
    kube = Kube(installation.kubeconfig())
    restricted = {"pod-security.kubernetes.io/enforce": "restricted"}
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": restricted}}
    kube.apply(namespace)
    yield kube
    kube.delete("v1", "Namespace", NAMESPACE)


class Asker:
    """Sends reviews to a running webhook."""

    def __init__(self, session: aiohttp.ClientSession, url: str, http_url: str, trust: ssl.SSLContext) -> None:
        self._session, self._url, self._http_url, self._trust = session, url, http_url, trust

    async def ask(self, pod: Any = None, namespace: str = NAMESPACE) -> dict[str, Any]:
        body = make_review(pod or make_pod()).replace(b'"team-a"', f'"{namespace}"'.encode())
        async with self._session.post(self._url, data=body, ssl=self._trust) as answered:
            response: dict[str, Any] = (await answered.json())["response"]
            return response

    async def ready(self) -> bool:
        async with self._session.get(f"{self._http_url}/readyz") as answered:
            return answered.status == 200

    async def warned(self, pod: Any = None, namespace: str = NAMESPACE) -> str:
        """The first warning of the answer, empty when there is none."""
        return str((await self.ask(pod, namespace)).get("warnings", [""])[0])


@pytest.fixture
async def webhook(kube: Kube, tmp_path: Path) -> AsyncIterator[Asker]:
    write_certificate(tmp_path / "tls", "webhook")
    write_token(tmp_path / "tls")
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "current").write_text("EBESExQVFhcYGRobHB0eHyAhIiMkJSYnKCkqKywtLi8=")
    settings = WebhookSettings(**SETTINGS, tls_dir=tmp_path / "tls", status_keys_dir=tmp_path / "keys")
    trust = ssl.create_default_context(cafile=str(tmp_path / "tls" / "tls.crt"))
    async with serve(settings, find_access()) as (port, http_port), aiohttp.ClientSession() as session:
        asker = Asker(session, f"https://localhost:{port}/inject/{TOKEN}", f"http://localhost:{http_port}", trust)
        await until(asker.ready)
        yield asker


async def until(look: Any) -> None:
    """Await `look` until it is true; the event loop must turn for the watches, so this is no thread's wait."""
    async with asyncio.timeout(30):
        while not await look():
            await asyncio.sleep(0.02)


async def test_pool_made_a_moment_ago_is_found(kube: Kube, webhook: Asker) -> None:
    kube.delete("spillway.dev/v1alpha1", "KVCachePool", "chat", NAMESPACE)

    async def unknown() -> bool:
        return "pool-not-found" in await webhook.warned()

    await until(unknown)
    kube.apply(POOL)
    # At once: whether the watch has told of it yet or not.
    assert "patch" in await webhook.ask()


async def test_limit_range_is_followed(kube: Kube, webhook: Asker) -> None:
    kube.apply(POOL)
    limits = [{"type": "Container", "max": {"memory": "256Mi"}}]
    bounds = {"name": "bounds", "namespace": NAMESPACE}
    kube.apply({"apiVersion": "v1", "kind": "LimitRange", "metadata": bounds, "spec": {"limits": limits}})

    async def refused() -> bool:
        return "LimitRange 'bounds': container spillway needs memory limit" in await webhook.warned()

    async def injected() -> bool:
        return "patch" in await webhook.ask() and not await webhook.warned()

    await until(refused)
    kube.delete("v1", "LimitRange", "bounds", NAMESPACE)
    await until(injected)


@pytest.mark.parametrize(
    "volume",
    [
        {"type": "Ephemeral", "ephemeral": {"storageClassName": "fast"}},
        {"type": "EmptyDir", "emptyDir": {"sizeLimit": "1Gi"}},
    ],
    ids=lambda volume: volume["type"],
)
async def test_injected_pod_is_admitted_where_restricted_is_enforced(kube: Kube, volume: dict[str, Any]) -> None:
    stored = {**POOL, "metadata": {**POOL["metadata"], "uid": "3f1c7c58-6f0e-4a58-9c39-5f2f2a6d1b10"}}
    stored["spec"] = {"tiers": {"dram": {"capacity": "64Mi"}, "nvme": {"capacity": "64Mi", "volume": volume}}}
    settings = WebhookSettings(**SETTINGS)
    pod = make_pod(securityContext={"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}})
    pod["metadata"] |= {"namespace": NAMESPACE}
    engine = pod["spec"]["containers"][0]
    engine["securityContext"] = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    pod = inject(pod, Facts(pool=parse_pool(stored), allowed=settings.allowed)).pod
    pods = kube.dynamic.resources.get(api_version="v1", kind="Pod")
    # A young namespace has no ServiceAccount yet.
    made = wait_for("the pod to be admitted", lambda: pods.create(body=pod, namespace=NAMESPACE, dry_run="All"), 20)
    assert [c["name"] for c in made.to_dict()["spec"]["initContainers"]] == ["spillway-client", "spillway"]


BOUNDED = "spillway-dry-run-test"
POLICY = {"apiVersion": "admissionregistration.k8s.io/v1", "metadata": {"name": "spillway-test-third-party"}}
# What would refuse a pod for what Spillway adds to it, the engine's container being modest, and what the API server says then.
OBSTACLES: dict[str, tuple[list[dict[str, Any]], str]] = {
    "quota of memory": (
        [{"kind": "ResourceQuota", "spec": {"hard": {"requests.memory": "64Mi"}}}],
        "exceeded quota: obstacle",
    ),
    "quota of claims": (
        [{"kind": "ResourceQuota", "spec": {"hard": {"persistentvolumeclaims": "0"}}}],
        "exceeded quota: obstacle, requested: persistentvolumeclaims=1",
    ),
    "range of ephemeral storage": (
        [
            {
                "kind": "LimitRange",
                "spec": {
                    "limits": [
                        {"type": "Container", "default": {"ephemeral-storage": "100Mi"}},
                        {"type": "Pod", "max": {"ephemeral-storage": "150Mi"}},
                    ]
                },
            }
        ],
        "maximum ephemeral-storage usage per Pod is 150Mi",
    ),
    "policy of a third party": (
        [
            {
                **POLICY,
                "kind": "ValidatingAdmissionPolicy",
                "spec": {
                    "matchConstraints": {
                        "resourceRules": [
                            {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}
                        ],
                        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": BOUNDED}},
                    },
                    "validations": [{"expression": "!has(object.spec.initContainers)", "message": "no init containers here"}],
                },
            },
            {
                **POLICY,
                "kind": "ValidatingAdmissionPolicyBinding",
                "spec": {"policyName": "spillway-test-third-party", "validationActions": ["Deny"]},
            },
        ],
        "no init containers here",
    ),
}  # fmt: skip


@pytest.fixture
def bounded(kube: Kube) -> Iterator[str]:
    """A namespace with the pool and nothing in the way yet."""
    kube.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": BOUNDED}})
    # An operator that runs in the cluster looks for it.
    storage_class = {"metadata": {"name": BOUNDED}, "provisioner": "kubernetes.io/no-provisioner"}
    kube.apply({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", **storage_class})
    volume = {"type": "Ephemeral", "ephemeral": {"storageClassName": BOUNDED}}
    tiers = {"dram": {"capacity": "64Mi"}, "nvme": {"capacity": "64Mi", "volume": volume}}
    kube.apply({**POOL, "metadata": {"name": "chat", "namespace": BOUNDED}, "spec": {"tiers": tiers}})
    wait_for("the ServiceAccount", lambda: kube.get("v1", "ServiceAccount", "default", BOUNDED), 20)
    yield BOUNDED
    kube.delete("v1", "Namespace", BOUNDED)
    kube.delete("storage.k8s.io/v1", "StorageClass", BOUNDED)
    for kind in ("ValidatingAdmissionPolicyBinding", "ValidatingAdmissionPolicy"):
        kube.delete(str(POLICY["apiVersion"]), kind, "spillway-test-third-party")
    wait_for("the namespace to be gone", lambda: kube.get("v1", "Namespace", BOUNDED) is None, 60)


@pytest.mark.parametrize("obstacle", OBSTACLES)
async def test_pod_that_only_we_make_inadmissible_starts_plain(
    kube: Kube, webhook: Asker, bounded: str, obstacle: str
) -> None:
    pod = make_pod()
    pod["spec"]["containers"][0]["resources"] = {"requests": {"memory": "16Mi"}, "limits": {"memory": "16Mi"}}

    async def injected() -> bool:
        return "patch" in await webhook.ask(pod, bounded) and not await webhook.warned(pod, bounded)

    await until(injected)
    manifests, words = OBSTACLES[obstacle]
    for manifest in manifests:
        placed = {"apiVersion": "v1", "metadata": {"name": "obstacle", "namespace": bounded}, **manifest}
        kube.apply(placed)

    async def refused() -> bool:
        marked = patched(pod, await webhook.ask(pod, bounded))["metadata"]["annotations"]
        said = marked.get(names.SKIPPED_MESSAGE_ANNOTATION, "")
        return marked.get(names.SKIPPED_ANNOTATION) == "not-admissible" and words in said

    await until(refused)
    plain = {**pod, "metadata": {"name": "plain", "namespace": bounded}}  # no label: no webhook is asked
    pods = kube.dynamic.resources.get(api_version="v1", kind="Pod")
    assert pods.create(body=plain, namespace=bounded, dry_run="All")
