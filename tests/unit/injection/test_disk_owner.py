"""Whose files a pod's fsGroup would change, and what is done instead."""

from __future__ import annotations

from typing import Any

import pytest
from golden_cases import load_case
from spillway_operator.injection.disk_owner import DiskOwner, decide_disk_owner

POOL = load_case("burstable").facts.pool
CLAIM = {"persistentVolumeClaim": {"claimName": "models"}}
KEY = {"secret": {"secretName": "ssh", "defaultMode": 0o400}}
TOKEN = {"serviceAccountToken": {"path": "token"}}


def owner(*volumes: dict[str, Any], level: str = "privileged", **security: Any) -> DiskOwner:
    assert POOL is not None
    named = [{"name": f"v{i}", **volume} for i, volume in enumerate(volumes)]
    return decide_disk_owner({"spec": {"volumes": named, "securityContext": security}}, POOL.spec.tiers.nvme, level)


@pytest.mark.parametrize(
    "volume",
    [
        {"emptyDir": {}},
        {"hostPath": {"path": "/dev/infiniband"}},
        {"configMap": {"name": "c"}},
        {"secret": {"secretName": "s", "defaultMode": 0o644}},
        {"secret": {"secretName": "s", "defaultMode": 0o444, "items": [{"key": "k", "path": "k"}]}},
        {
            "name": "kube-api-access-x7f2k",
            "projected": {"defaultMode": 0o644, "sources": [TOKEN, {"configMap": {"name": "kube-root-ca.crt"}}]},
        },
    ],
)
def test_files_that_everybody_reads_change_for_nobody(volume: dict[str, Any]) -> None:
    assert owner(volume, level="restricted") is DiskOwner.FS_GROUP


@pytest.mark.parametrize(
    "volume",
    [
        CLAIM,
        KEY,
        {"csi": {"driver": "secrets-store.csi.k8s.io"}},
        {"nfs": {"server": "s", "path": "/"}},
        {"ephemeral": {"volumeClaimTemplate": {}}},
        {"secret": {"secretName": "s", "items": [{"key": "k", "path": "k", "mode": 0o600}]}},
        {"projected": {"sources": [{"secret": {"name": "s", "items": [{"key": "k", "path": "k", "mode": 0o400}]}}]}},
        {"configMap": {"name": "c", "defaultMode": 0o640}},
        {"projected": {"defaultMode": 0o644, "sources": [TOKEN]}},
    ],
)
def test_what_would_change_is_left_alone(volume: dict[str, Any]) -> None:
    assert owner({"emptyDir": {}}, volume) is DiskOwner.CONTAINER
    assert owner({"emptyDir": {}}, volume, level="baseline") is DiskOwner.CONTAINER
    assert owner({"emptyDir": {}}, volume, level="restricted") is DiskOwner.NOBODY


def test_own_fs_group_does_it_for_ours_as_well() -> None:
    assert owner(CLAIM, fsGroup=2000) is DiskOwner.NOBODY
    assert owner(KEY, fsGroup=0) is DiskOwner.NOBODY
