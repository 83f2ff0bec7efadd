"""What the builders render."""

from __future__ import annotations

import json
from typing import Any

from spillway.config import parse_live_overrides
from spillway_operator.api import parse_pool
from spillway_operator.resources import DiskCleanup, build_cleanup_pod, build_config_map, cleanup_pod_name

CLEANUP = DiskCleanup("team-a", "chat", "0f0e0d0c-0b0a-0908-0706-050403020100", "/mnt/nvme0", "node-1")


def make_config_map(spec: dict[str, Any]) -> dict[str, Any]:
    metadata = {"name": "chat", "namespace": "team-a", "uid": CLEANUP.pool_uid}
    return build_config_map(parse_pool({"metadata": metadata, "spec": spec}))


def test_the_config_map_holds_what_the_daemon_reads() -> None:
    spec = {
        "sidecar": {"logLevel": "Debug"},
        "tiers": {"dram": {"capacity": "1Gi"}, "nvme": {"capacity": "2Gi", "io": {"deadline": "1s500ms"}}},
    }
    overrides = parse_live_overrides(make_config_map(spec)["data"]["overrides.json"])
    assert (overrides.log_level, overrides.nvme_deadline_seconds) == ("Debug", 1.5)


def test_the_config_map_is_the_pools_own() -> None:
    config_map = make_config_map({"tiers": {"dram": {"capacity": "1Gi"}}})
    assert config_map["metadata"]["name"] == "chat-spillway"
    (owner,) = config_map["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["uid"], owner["controller"]) == ("KVCachePool", CLEANUP.pool_uid, True)
    assert "nvme_deadline_seconds" not in json.loads(config_map["data"]["overrides.json"])


def make_cleanup_pod() -> dict[str, Any]:
    return build_cleanup_pod(CLEANUP, release_namespace="spillway-system", image="control:1", pull_policy="Never")


def test_the_cleanup_pod_may_pass_over_owners_and_modes_and_nothing_else() -> None:
    spec = make_cleanup_pod()["spec"]
    (container,) = spec["containers"]
    assert spec["securityContext"]["runAsUser"] == 0
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"], "add": ["DAC_OVERRIDE", "FOWNER"]},
    }  # fmt: skip
    assert spec["automountServiceAccountToken"] is False
    assert [volume["name"] for volume in spec["volumes"]] == ["disk"]
    assert spec["volumes"][0]["hostPath"] == {"path": "/mnt/nvme0", "type": "Directory"}


def test_the_cleanup_pod_writes_where_the_kubelet_reads() -> None:
    (container,) = make_cleanup_pod()["spec"]["containers"]
    options = dict(zip(container["command"][3::2], container["command"][4::2], strict=True))
    assert options["--termination-log"] == container["terminationMessagePath"]
    assert CLEANUP.folder == f"/mnt/nvme0/team-a/{options['--pool-uid']}"


def test_the_cleanup_pod_runs_on_its_node_for_ten_minutes_at_most() -> None:
    pod = make_cleanup_pod()
    assert pod["metadata"]["namespace"] == "spillway-system"
    assert pod["spec"]["nodeName"] == "node-1"
    assert pod["spec"]["activeDeadlineSeconds"] == 600
    assert "spillway.dev/pool" not in pod["metadata"]["labels"], "it must not count as a member"


def test_each_pool_and_node_has_one_cleanup_pod() -> None:
    names = {cleanup_pod_name(uid, node) for uid in ("u1", "u2") for node in ("n1", "n2")}
    assert len(names) == 4
    assert cleanup_pod_name("u1", "n" * 253) == cleanup_pod_name("u1", "n" * 253)
    assert all(len(name) <= 63 for name in names)
