"""Every kind of volume under engines of every kind of user: chunks go to the NVMe tier and come back as they went.

The engine is the stand-in of the kit: what is asked here is who may read and write which file, and that takes no model.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.kit.engine import annotation, scrape, total
from tests.e2e.kit.kube import Kube, Manifest
from tests.e2e.kit.local_volumes import local_volumes
from tests.e2e.kit.manifests import CONTROL_IMAGE, make_namespace, make_pool
from tests.e2e.kit.waiting import wait_for

pytestmark = pytest.mark.cluster

STAND_IN = Path(__file__).parent / "kit" / "stand_in_engine.py"
KINDS = ("ephemeral", "empty-dir", "host-path")
GROUP = 65532
# As a cluster gives them that draws users by namespace, group 0 and an fsGroup of the user's number included.
DRAWN = 1_000_650_000
USERS: dict[str, Manifest] = {
    "root": {"runAsUser": 0},
    "non-root": {"runAsUser": 1000, "runAsGroup": 1000, "runAsNonRoot": True},
    "drawn": {"runAsUser": DRAWN, "runAsGroup": 0, "runAsNonRoot": True, "fsGroup": DRAWN},
}
# Three pods that start and store 60 to 600 MB each, beside whatever else runs on two cores.
READY_SECONDS = 90


@pytest.fixture(scope="module")
def namespace_name() -> str:
    return "e2e-volume-kinds"


@pytest.fixture(scope="module")
def storage_class(kube: Kube) -> Iterator[str]:
    """Before the namespace, and so for longer than the claims in it."""
    with local_volumes(kube, len(USERS), "1Gi") as name:
        yield name


@pytest.fixture(scope="module")
def namespace(kube: Kube, storage_class: str, host_path: Path, clean_namespace: str) -> str:
    volumes: dict[str, Manifest] = {
        "ephemeral": {"type": "Ephemeral", "ephemeral": {"storageClassName": storage_class}},
        "empty-dir": {"type": "EmptyDir", "emptyDir": {"sizeLimit": "2Gi"}},
        "host-path": {"type": "HostPath", "hostPath": {"path": str(host_path), "maxPodsPerNode": len(USERS)}},
    }
    kube.apply(make_namespace(clean_namespace))
    for kind in KINDS:
        pool = make_pool(clean_namespace, name=kind, dram="64Mi", nvme="512Mi", engine={"container": "server"})
        pool["spec"]["tiers"]["nvme"]["volume"] = volumes[kind]
        kube.apply(pool)
    for kind in KINDS:
        wait_for(f"pool {kind} to be known", lambda kind=kind: kube.condition(clean_namespace, "ConfigValid", kind), 60)
    return clean_namespace


def pod_of(namespace: str, kind: str, user: str) -> Manifest:
    server = {
        "name": "server",
        "image": CONTROL_IMAGE,
        "imagePullPolicy": "IfNotPresent",
        "command": ["python3", "-c", STAND_IN.read_text()],
        "readinessProbe": {
            "exec": {"command": ["test", "-e", "/tmp/ready"]},
            "periodSeconds": 1,
            "failureThreshold": 600,
        },
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": f"{kind}-{user}", "namespace": namespace, "labels": {"spillway.dev/pool": kind}},
        "spec": {"restartPolicy": "Never", "securityContext": USERS[user], "containers": [server]},
    }


def wait_ready(kube: Kube, namespace: str, name: str) -> Manifest:
    def ready() -> Manifest:
        pod = kube.get("v1", "Pod", name, namespace)
        assert pod is not None
        conditions = {c["type"]: c["status"] for c in pod["status"].get("conditions", [])}
        if conditions.get("Ready") != "True":
            raise AssertionError(f"{kube.describe(pod)}\nserver: {kube.logs(namespace, name, 'server', 5)}")
        return pod

    return wait_for(f"pod {name} to be Ready", ready, READY_SECONDS)


@pytest.mark.parametrize("kind", KINDS)
def test_chunks_go_to_the_volume_and_come_back(kube: Kube, namespace: str, host_path: Path, kind: str) -> None:
    kube.apply(*(pod_of(namespace, kind, user) for user in USERS))
    for user, security in USERS.items():
        pod = wait_ready(kube, namespace, f"{kind}-{user}")
        status = annotation(pod, "spillway.dev/status")
        assert status is not None, annotation(pod, "spillway.dev/skipped-message")
        assert_given_away_as_decided(pod, kind, security)
        told = json.loads(kube.logs(namespace, pod["metadata"]["name"], "server", 1))
        assert told["uid"] == security["runAsUser"]
        samples = scrape(f"http://{pod['status']['podIP']}:{status['port']}/metrics")
        assert total(samples, "spillway_tier_chunks", "tier=nvme") > 0
        assert total(samples, "spillway_hop_bytes_total", "hop=nvme_to_arena") > 0
    wait_for(f"all volumes of pool {kind} to be in use", lambda: is_provisioned(kube, namespace, kind), 60)
    if kind == "host-path":
        assert_stores_are_the_pools(kube, host_path, namespace)
    # What is asked for is little, but the next three ask for it too.
    for user in USERS:
        kube.delete("v1", "Pod", f"{kind}-{user}", namespace)


def assert_given_away_as_decided(pod: Manifest, kind: str, security: Manifest) -> None:
    """Nothing but the volume changes hands, by the least that does it."""
    spec = pod["spec"]
    added = [container["name"] for container in spec["initContainers"]]
    wanted: dict[str, Any] = {
        "ephemeral": (security.get("fsGroup", GROUP), ["spillway-client", "spillway"]),
        "empty-dir": (security.get("fsGroup"), ["spillway-client", "spillway"]),
        "host-path": (security.get("fsGroup"), ["spillway-disk", "spillway-client", "spillway"]),
    }
    assert (spec["securityContext"].get("fsGroup"), added) == wanted[kind]


def is_provisioned(kube: Kube, namespace: str, kind: str) -> bool:
    condition = kube.condition(namespace, "StorageProvisioned", kind)
    assert condition is not None
    if condition["reason"] != "Provisioned" or not condition["message"].startswith(f"{len(USERS)} of {len(USERS)}"):
        raise AssertionError(condition)
    return "nvme" in {tier["name"] for tier in kube.pool(namespace, kind)["status"]["tiers"]}


def assert_stores_are_the_pools(kube: Kube, host_path: Path, namespace: str) -> None:
    """One store per pod in the pool's folder, which is closed to all but the pool's user, as is each store."""
    pod = kube.get("v1", "Pod", "host-path-root", namespace)
    assert pod is not None
    (user,) = {c["securityContext"]["runAsUser"] for c in pod["spec"]["initContainers"] if c["name"] == "spillway"}
    folder = host_path / namespace / kube.pool(namespace, "host-path")["metadata"]["uid"]
    assert (folder.stat().st_uid, oct(folder.stat().st_mode & 0o777)) == (user, "0o700")
    stores = sorted(folder.glob("slot-*/chunks"))
    assert [store.parent.name for store in stores] == [f"slot-{number}" for number in range(len(USERS))]
    assert {(store.stat().st_uid, oct(store.stat().st_mode & 0o777)) for store in stores} == {(user, "0o600")}
