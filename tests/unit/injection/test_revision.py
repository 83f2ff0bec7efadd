"""The revision names what only a new pod can take over."""

from __future__ import annotations

from typing import Any

import pytest
from spillway_operator.api import KVCachePool, parse_pool
from spillway_operator.injection import build_sidecar_config, pool_revision

IMAGE = "registry.example/spillway-sidecar:0.1.0"


def make_pool(**spec: Any) -> KVCachePool:
    tiers = {"dram": {"capacity": "1Gi"}, "nvme": {"capacity": "2Gi", **spec.pop("nvme", {})}}
    return parse_pool({"metadata": {"name": "chat", "namespace": "a", "uid": "u"}, "spec": {"tiers": tiers, **spec}})


def test_same_pool_same_revision() -> None:
    assert pool_revision(make_pool(), IMAGE) == pool_revision(make_pool(), IMAGE)
    assert build_sidecar_config(make_pool(), IMAGE).revision == pool_revision(make_pool(), IMAGE)
    assert len(pool_revision(make_pool(), IMAGE)) == 12


@pytest.mark.parametrize(
    "spec", [{"sidecar": {"logLevel": "Debug"}}, {"nvme": {"io": {"deadline": "1s"}}}], ids=["log level", "deadline"]
)
def test_live_fields_make_no_pod_outdated(spec: dict[str, Any]) -> None:
    assert pool_revision(make_pool(**spec), IMAGE) == pool_revision(make_pool(), IMAGE)


def test_status_keys_make_no_pod_outdated() -> None:
    key = "EBESExQVFhcYGRobHB0eHyAhIiMkJSYnKCkqKywtLi8="
    assert build_sidecar_config(make_pool(), IMAGE, (key,)).revision == pool_revision(make_pool(), IMAGE)


@pytest.mark.parametrize(
    "spec",
    [
        {"cacheEpoch": 1},
        {"nvme": {"reservePercent": 6}},
        {"nvme": {"volume": {"type": "EmptyDir", "emptyDir": {"sizeLimit": "3Gi"}}}},
        {"nvme": {"io": {"direct": "Off"}}},
        {"sidecar": {"resources": {"requests": {"cpu": 1}}}},
        {"sidecar": {"securityContext": {"runAsUser": 1000}}},
        {"engine": {"container": "server"}},
    ],
    ids=str,
)
def test_other_fields_do(spec: dict[str, Any]) -> None:
    assert pool_revision(make_pool(**spec), IMAGE) != pool_revision(make_pool(), IMAGE)


def test_image_does() -> None:
    assert pool_revision(make_pool(), IMAGE) != pool_revision(make_pool(), IMAGE + "1")
