"""Digests that differ whenever what they stand for does."""

from __future__ import annotations

from pathlib import Path

import pytest
from spillway.client import IdentityUnknown, SettingsError, canonical_digest, read_settings, weights_digest

POOL = '{"pool":{"uid":"u"},"cache_epoch":3,"nvme":{"deadline_seconds":1.5},"added_later":true}'


def make_weights(folder: Path, *, size: int = 1 << 20, name: str = "model.safetensors") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(bytes(size))
    return folder


def test_digest_of_a_document_does_not_depend_on_the_order_of_its_fields() -> None:
    assert canonical_digest({"a": 1, "b": [2]}) == canonical_digest({"b": [2], "a": 1})
    assert canonical_digest({"a": 1}) != canonical_digest({"a": "1"})


@pytest.mark.parametrize("value", [object(), float("nan"), {1, 2}])
def test_value_without_an_exact_form_is_refused(value: object) -> None:
    with pytest.raises(IdentityUnknown):
        canonical_digest({"field": value})


@pytest.mark.parametrize("offset", [0, 4095, (1 << 20) - 1])
def test_weights_differ_when_a_sampled_page_does(tmp_path: Path, offset: int) -> None:
    folder = make_weights(tmp_path / "model")
    before = weights_digest(folder)
    assert weights_digest(folder) == before
    with (folder / "model.safetensors").open("r+b") as file:
        file.seek(offset)
        file.write(b"\x01")
    assert weights_digest(folder) != before


def test_weights_differ_in_name_and_size(tmp_path: Path) -> None:
    digests = {
        weights_digest(make_weights(tmp_path / "a")),
        weights_digest(make_weights(tmp_path / "b", size=1 << 19)),
        weights_digest(make_weights(tmp_path / "c", name="other.safetensors")),
    }
    assert len(digests) == 3


def test_folder_without_weights_is_unknown(tmp_path: Path) -> None:
    with pytest.raises(IdentityUnknown, match="weights"):
        weights_digest(tmp_path)


def test_settings_keep_what_the_client_needs_and_pass_over_the_rest() -> None:
    settings = read_settings({"SPILLWAY_CONFIG": POOL})
    assert (settings.root, settings.pool_uid, settings.cache_epoch) == ("/spillway", "u", 3)
    assert settings.io_deadline_seconds == 1.5
    assert read_settings({"SPILLWAY_CONFIG": POOL, "SPILLWAY_ROOT": "/x"}).root == "/x"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pool":{}}', '{"pool":{"uid":"u"},"nvme":{"deadline_seconds":"x"}}'])
def test_unreadable_settings_say_so(text: str) -> None:
    with pytest.raises(SettingsError, match="SPILLWAY_CONFIG"):
        read_settings({"SPILLWAY_CONFIG": text})


def test_client_reads_what_the_webhook_renders() -> None:
    from spillway.config import DramConfig, NvmeConfig, PoolIdentity, SidecarConfig

    rendered = SidecarConfig(
        pool=PoolIdentity(namespace="n", name="p", uid="u"),
        revision="r",
        cache_epoch=7,
        dram=DramConfig(capacity_bytes=64 << 20),
        nvme=NvmeConfig(capacity_bytes=1 << 30, reserve_percent=0, volume_type="EmptyDir", deadline_seconds=0.5),
        index_bytes=1 << 20,
    ).render()
    settings = read_settings({"SPILLWAY_CONFIG": rendered})
    assert (settings.pool_uid, settings.cache_epoch, settings.io_deadline_seconds) == ("u", 7, 0.5)
