"""A pod is admitted with the label if and only if it is admitted without: kinds of pods, kinds of namespaces, kinds of pools.

Asked of the real API server, by dry runs through the installed webhook.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kubernetes.client.exceptions import ApiException

from tests.e2e.kit.kube import Kube, Manifest
from tests.e2e.kit.manifests import make_namespace, make_pool
from tests.e2e.kit.shapes import SHAPES, shaped
from tests.e2e.kit.waiting import wait_for

pytestmark = pytest.mark.cluster

PREFIX = "e2e-admission"
NAMESPACES = ("open", "baseline", "restricted", "limited", "quota")
POOLS = ("dram", "empty-dir", "ephemeral", "host-path")
INJECT = "spillway.dev/inject"


@pytest.fixture(scope="module")
def namespace_name() -> str:
    """Whose folder the hostPath pools name: a listed one, in which nothing is stored by a dry run."""
    return "e2e-bench-ttft"


@pytest.fixture(scope="module")
def namespaces(kube: Kube, host_path: Path) -> Iterator[None]:
    for kind in NAMESPACES:
        name = f"{PREFIX}-{kind}"
        level = kind if kind in ("baseline", "restricted") else "privileged"
        kube.apply(make_namespace(name, **{"pod-security.kubernetes.io/enforce": level}))
        kube.apply(*make_pools(name, host_path))
    limits = [
        {
            "type": "Container",
            "max": {"memory": "5Gi"},
            "default": {"memory": "1Gi"},
            "defaultRequest": {"memory": "64Mi"},
        },
        {"type": "Pod", "max": {"memory": "6Gi", "ephemeral-storage": "8Gi"}},
        {"type": "PersistentVolumeClaim", "max": {"storage": "2Gi"}},
    ]
    kube.apply(bound("LimitRange", "limited", {"limits": limits}))
    hard = {"requests.memory": "5Gi", "requests.storage": "2Gi", "persistentvolumeclaims": "1", "limits.cpu": "6"}
    kube.apply(bound("ResourceQuota", "quota", {"hard": hard}))
    wait_for(
        "the quota to count",
        lambda: (kube.get("v1", "ResourceQuota", "bound", f"{PREFIX}-quota") or {}).get("status", {}).get("hard"),
        30,
    )
    for kind in NAMESPACES:
        for pool in POOLS:
            wait_for(
                f"pool {pool} in {kind} to be known",
                partial(kube.condition, f"{PREFIX}-{kind}", "ConfigValid", pool),
                60,
            )
    yield
    for kind in NAMESPACES:
        for pool in POOLS:
            kube.delete("spillway.dev/v1alpha1", "KVCachePool", pool, f"{PREFIX}-{kind}")
        kube.delete("v1", "Namespace", f"{PREFIX}-{kind}")


def bound(kind: str, namespace: str, spec: Manifest) -> Manifest:
    metadata = {"name": "bound", "namespace": f"{PREFIX}-{namespace}"}
    return {"apiVersion": "v1", "kind": kind, "metadata": metadata, "spec": spec}


def make_pools(namespace: str, host_path: Path) -> list[Manifest]:
    ephemeral = make_pool(namespace, name="ephemeral", nvme="3Gi")
    ephemeral["spec"]["tiers"]["nvme"]["volume"] = {"type": "Ephemeral"}
    return [
        make_pool(namespace, name="dram", nvme=None),
        make_pool(namespace, name="empty-dir"),
        ephemeral,
        make_pool(namespace, name="host-path", host_path=str(host_path)),
    ]


def ask(kube: Kube, pod: Manifest, namespace: str, **labels: str) -> Manifest | str:
    """The pod as it would be stored, or the API server's refusal."""
    asked = copy.deepcopy(pod)
    asked["metadata"] |= {"namespace": namespace, "labels": {**asked["metadata"].get("labels", {}), **labels}}
    pods = kube.dynamic.resources.get(api_version="v1", kind="Pod")
    try:
        return dict(pods.create(body=asked, namespace=namespace, query_params=[("dryRun", "All")]).to_dict())
    except ApiException as error:
        return str(json.loads(error.body or "{}").get("message", error.body))


def assert_alike(kube: Kube, pod: Manifest, namespace: str, pool: str, *, twice: bool = True) -> str:
    """Admitted with the label iff without; twice is once. Returns what became of it."""
    where = f"{PREFIX}-{namespace}"
    plain = ask(kube, pod, where, **{"spillway.dev/pool": pool, INJECT: "false"})
    labelled = ask(kube, pod, where, **{"spillway.dev/pool": pool})
    assert isinstance(plain, str) == isinstance(labelled, str), f"plain: {said(plain)}\nlabelled: {said(labelled)}"
    if isinstance(labelled, str):
        return "refused"
    annotations = labelled["metadata"].get("annotations") or {}
    if "spillway.dev/status" not in annotations:
        return str(annotations["spillway.dev/skipped"])
    if twice:
        assert_stable(kube, labelled, where)
    return "injected"


def assert_stable(kube: Kube, labelled: Manifest, namespace: str) -> None:
    again = {"apiVersion": "v1", "kind": "Pod", "spec": labelled["spec"], "metadata": {
        key: labelled["metadata"][key] for key in ("name", "labels", "annotations") if key in labelled["metadata"]
    }}  # fmt: skip
    twice = ask(kube, again, namespace)
    assert not isinstance(twice, str), f"twice: {twice}"
    assert twice["spec"] == labelled["spec"]


def said(answer: Manifest | str) -> str:
    return answer if isinstance(answer, str) else "admitted"


@pytest.mark.usefixtures("namespaces")
@pytest.mark.parametrize("namespace", NAMESPACES)
def test_every_kind_of_pod(kube: Kube, namespace: str) -> None:
    outcomes: dict[str, dict[str, str]] = {}
    # What a bound refuses it refuses of the smallest pool or of the claim.
    pools = POOLS if namespace == "open" else ("dram", "ephemeral")
    for name in SHAPES:
        for pool in pools:
            try:
                outcome = assert_alike(kube, shaped(name), namespace, pool, twice=namespace == "open")
                outcomes.setdefault(name, {})[pool] = outcome
            except AssertionError as error:
                raise AssertionError(f"{name} of pool {pool} in a namespace {namespace}: {error}") from error
    for name, by_pool in outcomes.items():
        print(f"{name:24}", *(f"{pool}={outcome}" for pool, outcome in by_pool.items()))
    if namespace == "open":
        for pool in pools:
            injected = [name for name, by_pool in outcomes.items() if by_pool[pool] == "injected"]
            assert len(injected) > len(SHAPES) * 3 / 4, f"{pool}: only {injected}"


pods = st.lists(st.sampled_from([name for name in SHAPES if name != "mirror"]), min_size=1, max_size=4)


@pytest.mark.usefixtures("namespaces")
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(changes=pods, namespace=st.sampled_from(NAMESPACES), pool=st.sampled_from(POOLS))
def test_random_mixtures(kube: Kube, changes: list[str], namespace: str, pool: str) -> None:
    pod: dict[str, Any] = shaped("bare")
    for name in changes:
        SHAPES[name](pod)
    assert_alike(kube, pod, namespace, pool)
