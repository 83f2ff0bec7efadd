"""Digests that differ whenever what they stand for does."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from spillway.client import IdentityUnknown, SettingsError, canonical_digest, read_settings
from spillway.client.identity import FileDigests, weights_digest, weights_stamp

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


@pytest.mark.parametrize("offset", [0, 4095, 777_777, (1 << 20) - 1])
def test_weights_differ_when_any_byte_does(tmp_path: Path, offset: int) -> None:
    folder = make_weights(tmp_path / "model")
    before = weights_digest(folder)
    assert weights_digest(folder) == before
    with (folder / "model.safetensors").open("r+b") as file:
        file.seek(offset)
        file.write(b"\x01")
    assert weights_digest(folder) != before


def test_what_is_read_beside_the_weights_counts_and_what_is_not_does_not(tmp_path: Path) -> None:
    folder = make_weights(tmp_path / "model")
    before = weights_digest(folder)
    (folder / "README.md").write_text("words")
    assert weights_digest(folder) == before
    (folder / "modeling_own.py").write_text("x = 1")
    with_code = weights_digest(folder)
    assert with_code != before
    (folder / "modeling_own.py").write_text("x = 2")
    assert weights_digest(folder) not in (before, with_code)


def test_file_is_read_again_only_after_it_changed(tmp_path: Path) -> None:
    path, memory = make_weights(tmp_path / "model") / "model.safetensors", tmp_path / "memory.json"
    digest = FileDigests(memory).digest(path)
    # What is remembered is believed, so what stands there shows whether the file was read.
    memory.write_text(memory.read_text().replace(digest, "remembered"))
    assert FileDigests(memory).digest(path) == "remembered"
    path.touch()
    assert FileDigests(memory).digest(path) == digest


@pytest.mark.parametrize("memory", ["", "[]", "{", '{"a": 1}'])
def test_damaged_memory_is_computed_again(tmp_path: Path, memory: str) -> None:
    folder, path = make_weights(tmp_path / "model"), tmp_path / "memory.json"
    path.write_text(memory)
    assert weights_digest(folder, FileDigests(path)) == weights_digest(folder)


def test_stamp_changes_with_a_file_that_keeps_its_size_and_its_time(tmp_path: Path) -> None:
    folder = make_weights(tmp_path / "model")
    path, before = folder / "model.safetensors", weights_stamp(folder)
    assert weights_stamp(folder) == before
    seen = path.stat()
    path.write_bytes(b"\x01" * (1 << 20))
    os.utime(path, ns=(seen.st_atime_ns, seen.st_mtime_ns))
    assert weights_stamp(folder) != before


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
