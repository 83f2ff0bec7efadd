"""Pods that Spillway must leave alone: the specification stays as it was, and an annotation says why."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.kit.engine import annotation
from tests.e2e.kit.kube import Kube, Manifest
from tests.e2e.kit.manifests import make_engine, make_namespace, make_pool
from tests.e2e.kit.transcript import Transcript
from tests.e2e.kit.waiting import wait_for

pytestmark = pytest.mark.cluster

OWN_CONFIG = '{"kv_connector": "ExampleConnector",  "kv_role":"kv_both", "kv_connector_extra_config":{"shared_storage_path":"/tmp/x"}}'


@pytest.fixture(scope="module")
def namespace_name() -> str:
    return "e2e-skips"


@pytest.fixture(scope="module")
def namespace(kube: Kube, clean_namespace: str, host_path: Path) -> str:
    kube.apply(make_namespace(clean_namespace), make_pool(clean_namespace, host_path=str(host_path)))
    # None of the paths that the administrator allowed.
    kube.apply(make_pool(clean_namespace, name="invalid", host_path="/mnt/not-allowed"))
    wait_for(
        "the pool `invalid` to be found invalid",
        lambda: (c := kube.condition(clean_namespace, "ConfigValid", "invalid")) and c["status"] == "False",
        60,
    )
    return clean_namespace


def bare_pod(namespace: str, pool: str | None, *, name: str = "probe", extra_args: tuple[str, ...] = ()) -> Manifest:
    """The pod of the Deployment's template, as a pod."""
    template = make_engine(namespace, pool=pool, extra_args=extra_args)[0]["spec"]["template"]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": template["metadata"]["labels"]},
        "spec": template["spec"],
    }


def admitted(kube: Kube, pod: Manifest) -> Manifest:
    """What the API server would store, webhooks included; nothing is created."""
    resource = kube.dynamic.resources.get(api_version="v1", kind="Pod")
    answer = resource.create(body=pod, namespace=pod["metadata"]["namespace"], query_params=[("dryRun", "All")])
    return dict(answer.to_dict())


def started(kube: Kube, namespace: str, pool: str, name: str) -> None:
    """A real pod of that pool; it need not serve, so it does not load a model."""
    pod = bare_pod(namespace, pool, name=name)
    container = pod["spec"]["containers"][0]
    container.update(command=["sleep"], args=["600"], resources={})
    del container["readinessProbe"]
    kube.apply(pod)


def plain(pod: Manifest) -> Manifest:
    """The specification without what the API server names at random."""
    spec = dict(pod["spec"])
    spec["volumes"] = [v for v in spec["volumes"] if not v["name"].startswith("kube-api-access-")]
    spec["containers"] = [
        {**c, "volumeMounts": [m for m in c["volumeMounts"] if not m["name"].startswith("kube-api-access-")]}
        for c in spec["containers"]
    ]
    return spec


@pytest.mark.parametrize(("pool", "reason"), [("absent", "pool-not-found"), ("invalid", "pool-invalid")])
def test_pod_is_equal_but_for_the_annotation(kube: Kube, namespace: str, pool: str, reason: str) -> None:
    untouched = admitted(kube, bare_pod(namespace, None))
    skipped = admitted(kube, bare_pod(namespace, pool))
    assert plain(skipped) == plain(untouched)
    assert set(skipped["metadata"]["annotations"]) == {"spillway.dev/skipped", "spillway.dev/skipped-message"}
    assert annotation(skipped, "spillway.dev/skipped") == reason


def test_of_two_pools_that_name_one_user_the_later_is_refused(kube: Kube, namespace: str) -> None:
    sidecar = {"resources": {"requests": {"cpu": "50m"}}, "securityContext": {"runAsUser": 41001}}
    for name in ("named-a", "named-b"):
        kube.apply(make_pool(namespace, name=name, sidecar=sidecar))
    made = sorted(
        (kube.pool(namespace, name)["metadata"] for name in ("named-a", "named-b")),
        key=lambda metadata: (str(metadata["creationTimestamp"]), metadata["uid"]),
    )
    holder, late = (metadata["name"] for metadata in made)
    try:
        refusal = wait_for(
            "the later pool to be refused",
            lambda: (c := kube.condition(namespace, "ConfigValid", late)) and c["status"] == "False" and c,
            60,
        )
        assert refusal["reason"] == "RunAsUserTaken"
        assert "runAsUser" in refusal["message"] and "41001" in refusal["message"]
        assert holder not in refusal["message"]
        skipped, injected = (admitted(kube, bare_pod(namespace, name)) for name in (late, holder))
        assert plain(skipped) == plain(admitted(kube, bare_pod(namespace, None)))
        assert annotation(skipped, "spillway.dev/skipped") == "pool-invalid"
        (ours,) = [c for c in injected["spec"]["initContainers"] if c["name"] == "spillway"]
        assert ours["securityContext"]["runAsUser"] == 41001
    finally:
        for name in (holder, late):
            kube.delete("spillway.dev/v1alpha1", "KVCachePool", name, namespace)


def test_kubectl_says_why_a_pod_was_skipped(kube: Kube, namespace: str, transcript: Transcript) -> None:
    started(kube, namespace, "absent", "orphan")
    transcript.check("15-pool-absent", namespace, "absent")
    transcript.check_pod("15-pool-absent-pod", namespace, "orphan")
    started(kube, namespace, "invalid", "misled")
    transcript.check("16-pool-invalid", namespace, "invalid")
    transcript.check_pod("16-pool-invalid-pod", namespace, "misled")


def test_namespace_that_forbids_the_volume(kube: Kube, namespace: str, transcript: Transcript) -> None:
    forbidding = f"{namespace}-baseline"
    kube.apply(make_namespace(forbidding, **{"pod-security.kubernetes.io/enforce": "baseline"}))
    pool = kube.pool(namespace)
    path = pool["spec"]["tiers"]["nvme"]["volume"]["hostPath"]["path"]
    kube.apply(make_pool(forbidding, host_path=path))
    try:
        untouched = admitted(kube, bare_pod(forbidding, None))

        def skipped() -> Manifest | None:
            pod = admitted(kube, bare_pod(forbidding, "chat"))
            return pod if annotation(pod, "spillway.dev/skipped") == "namespace-forbids-volume" else None

        assert plain(wait_for("the webhook to know the namespace", skipped, 20)) == plain(untouched)
        started(kube, forbidding, "chat", "forbidden")
        transcript.check("17-namespace-forbids-the-volume", forbidding)
        transcript.check_pod("17-namespace-forbids-the-volume-pod", forbidding, "forbidden")
    finally:
        kube.delete("spillway.dev/v1alpha1", "KVCachePool", "chat", forbidding)
        kube.delete("v1", "Namespace", forbidding)


def test_namespace_whose_quota_has_no_room_for_the_sidecar(kube: Kube, namespace: str) -> None:
    """No rule of ours knows quotas: the API server is asked."""
    bounded = f"{namespace}-quota"
    kube.apply(make_namespace(bounded))
    path = kube.pool(namespace)["spec"]["tiers"]["nvme"]["volume"]["hostPath"]["path"]
    kube.apply(make_pool(bounded, host_path=path))
    try:
        assert annotation(admitted(kube, bare_pod(bounded, "chat")), "spillway.dev/status") is not None
        untouched = admitted(kube, bare_pod(bounded, None))
        asked = untouched["spec"]["containers"][0]["resources"]["requests"]["memory"]
        quota = {"hard": {"requests.memory": asked}}
        meta = {"name": "just-the-engine", "namespace": bounded}
        kube.apply({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": meta, "spec": quota})

        def skipped() -> Manifest | None:
            pod = admitted(kube, bare_pod(bounded, "chat"))
            return pod if annotation(pod, "spillway.dev/skipped") == "not-admissible" else None

        assert plain(wait_for("the quota to count", skipped, 20)) == plain(untouched)
    finally:
        kube.delete("spillway.dev/v1alpha1", "KVCachePool", "chat", bounded)
        kube.delete("v1", "Namespace", bounded)


def test_own_kv_transfer_config_stays_byte_for_byte(kube: Kube, namespace: str) -> None:
    pod = bare_pod(namespace, "chat", extra_args=("--kv-transfer-config", OWN_CONFIG))
    stored = admitted(kube, pod)
    assert stored["spec"]["containers"][0]["args"] == pod["spec"]["containers"][0]["args"]
    assert stored["spec"]["containers"][0]["command"] == pod["spec"]["containers"][0]["command"]
    assert annotation(stored, "spillway.dev/status") is not None


def test_second_admission_changes_nothing(kube: Kube, namespace: str) -> None:
    once = admitted(kube, bare_pod(namespace, "chat"))
    again = {"apiVersion": "v1", "kind": "Pod", "metadata": {}, "spec": once["spec"]}
    again["metadata"] = {
        key: once["metadata"][key] for key in ("name", "namespace", "labels", "annotations") if key in once["metadata"]
    }
    twice = admitted(kube, again)
    assert plain(twice) == plain(once)
    assert twice["metadata"]["annotations"] == once["metadata"]["annotations"]
