"""What the models read, refuse and compute."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError
from spillway.config import ConfigError
from spillway_operator.api import (
    KVCachePool,
    NvmeTier,
    Reason,
    SkipReason,
    find_fault,
    find_host_path_fault,
    image_repository,
    parse_pool,
)
from spillway_operator.api.allowed import Allowed
from spillway_operator.api.spec import NvmeIo, SidecarSpec, cpu_millicores

ALLOWED = Allowed("registry.example/sidecar:1", ("mirror.example/sidecar",), ("/mnt/nvme0", "/data"))


def make_pool(sidecar: dict[str, Any] | None = None, path: str | None = None) -> KVCachePool:
    nvme = {"capacity": "2Gi", "volume": {"type": "HostPath", "hostPath": {"path": path}}} if path else None
    tiers = {"dram": {"capacity": "1Gi"}, **({"nvme": nvme} if nvme else {})}
    spec = {"tiers": tiers, "sidecar": sidecar or {}}
    return parse_pool({"metadata": {"name": "chat", "namespace": "a", "uid": "u"}, "spec": spec})


def test_quantities_are_read_as_integer_and_as_string() -> None:
    for capacity in (2**30, "1Gi", str(2**30)):
        pool = parse_pool(
            {
                "metadata": {"name": "p", "namespace": "n", "uid": "u"},
                "spec": {"tiers": {"dram": {"capacity": capacity}}},
            }
        )
        assert pool.spec.tiers.dram.capacity_bytes == 2**30


def test_unreadable_pool_names_the_field_and_the_fix() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_pool(
            {"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": {"tiers": {"dram": {"capacity": "1GB"}}}}
        )
    assert caught.value.field == "spec.tiers.dram.capacity"
    assert "'1GB'" in str(caught.value)
    assert "64Gi" in str(caught.value)


def test_field_of_a_newer_crd_is_no_fault() -> None:
    stored = {"metadata": {"name": "p", "namespace": "n", "uid": "u"}}
    assert parse_pool({**stored, "spec": {"tiers": {"dram": {"capacity": 1 << 30}}, "later": 1}})


def test_volume_holds_capacity_and_reserve() -> None:
    assert NvmeTier(capacity="100", reserve_percent=5).volume_bytes == 105
    assert NvmeTier(capacity="101", reserve_percent=5).volume_bytes == 107


@pytest.mark.parametrize(("deadline", "seconds"), [("250ms", 0.25), ("1m30s", 90.0)])
def test_deadline_in_seconds(deadline: str, seconds: float) -> None:
    assert NvmeIo(deadline=deadline).deadline_seconds == seconds


def test_deadline_without_unit_is_refused() -> None:
    with pytest.raises(ValidationError, match="write it like 250ms"):
        NvmeIo(deadline="250")


def test_cpu_in_millicores() -> None:
    spec = SidecarSpec.model_validate({"resources": {"requests": {"cpu": 2}, "limits": {"cpu": "2500m"}}})
    assert cpu_millicores(spec) == (2000, 2500)
    assert cpu_millicores(SidecarSpec()) == (500, None)


@pytest.mark.parametrize(
    ("image", "repository"),
    [
        ("localhost:5000/a/b:1", "localhost:5000/a/b"),
        ("b@sha256:00", "b"),
        ("a/b:1@sha256:00", "a/b"),
        ("localhost:5000/b", "localhost:5000/b"),
    ],
)
def test_image_repository(image: str, repository: str) -> None:
    assert image_repository(image) == repository


@pytest.mark.parametrize(
    "image", [None, "registry.example/sidecar:1", "mirror.example/sidecar:9", "mirror.example/sidecar@sha256:00"]
)
def test_allowed_image(image: str | None) -> None:
    assert find_fault(make_pool({"image": image}), ALLOWED) is None


@pytest.mark.parametrize(
    "image", ["registry.example/sidecar:2", "mirror.example/sidecar-evil:1", "mirror.example/sidecar/x:1"]
)
def test_foreign_image(image: str) -> None:
    fault = find_fault(make_pool({"image": image}), ALLOWED)
    assert fault is not None
    assert fault.reason is Reason.IMAGE_NOT_ALLOWED
    assert image in fault.message


@pytest.mark.parametrize("path", ["/mnt/nvme0", "/data"])
def test_allowed_path(path: str) -> None:
    assert find_fault(make_pool(path=path), ALLOWED) is None


@pytest.mark.parametrize(
    "path",
    [
        "/mnt/nvme01",
        "/mnt/nvme0/kv",
        "/mnt/nvme0/",
        "/mnt/./nvme0",
        "/mnt",
        "/etc",
        "/mnt/nvme0/../../etc",
        "//mnt/nvme0",
    ],
)
def test_foreign_path(path: str) -> None:
    fault = find_fault(make_pool(path=path), ALLOWED)
    assert fault is not None
    assert fault.reason is Reason.HOST_PATH_NOT_ALLOWED
    assert path in fault.message


def test_no_path_is_allowed_where_none_is_listed() -> None:
    assert find_fault(make_pool(path="/mnt"), Allowed("i")) is not None


def test_a_folder_that_is_not_allowed_stays_so_beside_another_fault() -> None:
    """The cleanup of a deleted pool asks for the folder alone: an image fault must not stand in front of it."""
    pool = make_pool({"image": "elsewhere.example/sidecar:1"}, path="/etc")
    assert find_fault(pool, ALLOWED).reason is Reason.IMAGE_NOT_ALLOWED  # type: ignore[union-attr]
    assert find_host_path_fault(pool, ALLOWED).reason is Reason.HOST_PATH_NOT_ALLOWED  # type: ignore[union-attr]


def test_reasons_are_stable_words() -> None:
    assert all(reason == reason.lower() and " " not in reason for reason in SkipReason)
    assert all(reason.isalnum() and reason[0].isupper() for reason in Reason)
