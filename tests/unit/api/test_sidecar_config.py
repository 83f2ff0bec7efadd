"""The configuration that travels in SPILLWAY_CONFIG."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field
from spillway.config import (
    BOOK_BYTES_PER_CHUNK,
    HEAP_BASE_BYTES,
    IGNORED,
    MAX_INDEX_BYTES,
    MAX_RENDERED_BYTES,
    MIB,
    MIN_INDEX_BYTES,
    POLICY_BYTES_PER_CHUNK,
    REFUSED,
    ConfigError,
    DramConfig,
    LiveOverrides,
    NvmeConfig,
    PoolIdentity,
    SidecarConfig,
    heap_bytes,
    index_bytes,
    index_table_bytes,
    parse_live_overrides,
    parse_sidecar_config,
    policy_bytes,
)

KEY = "EBESExQVFhcYGRobHB0eHyAhIiMkJSYnKCkqKywtLi8="


def make_config(**changes: Any) -> SidecarConfig:
    nvme = {"capacity_bytes": 2**31, "reserve_percent": 5, "volume_type": "HostPath"}
    fields: dict[str, Any] = {
        "pool": {"namespace": "team-a", "name": "chat", "uid": "3f1c7c58"},
        "revision": "8f3a",
        "dram": {"capacity_bytes": 2**30},
        "nvme": nvme,
        "index_bytes": index_bytes(2**30, 2**31),
        "status_public_keys": [KEY],
    }
    return SidecarConfig.model_validate({**fields, **changes})


def test_rendered_config_is_read_back() -> None:
    config = make_config()
    assert parse_sidecar_config(config.render()) == config
    assert parse_sidecar_config(make_config(nvme=None).render()).nvme is None


def test_longest_config_fits_the_environment() -> None:
    pool = {"namespace": "n" * 63, "name": "p" * 52, "uid": "u" * 36}
    nvme = make_config().nvme
    assert nvme is not None
    longest = make_config(pool=pool, nvme=nvme.model_dump(), status_public_keys=[KEY] * 4)
    assert len(longest.render()) < MAX_RENDERED_BYTES / 4


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ("dram.capacity_bytes", 1, "SPILLWAY_CONFIG.dram.capacity_bytes: .*67108864, not 1; correct the value"),
        ("nvme.direct", "Maybe", "SPILLWAY_CONFIG.nvme.direct: .*not 'Maybe'"),
        ("status_public_keys", ["x"], "SPILLWAY_CONFIG.status_public_keys.0: .*base64"),
        ("status_public_keys", ["AAAA"], "holds 3 bytes where an Ed25519 public key has 32"),
        ("requires", 1, "SPILLWAY_CONFIG.requires: is 1, not a list"),
    ],
)
def test_error_names_field_value_and_fix(path: str, value: object, says: str) -> None:
    document = json.loads(make_config().render())
    *folders, field = path.split(".")
    target = document
    for folder in folders:
        target = target[folder]
    target[field] = value
    with pytest.raises(ConfigError, match=says):
        parse_sidecar_config(json.dumps(document))


def test_missing_field_and_no_json() -> None:
    with pytest.raises(ConfigError, match=r"SPILLWAY_CONFIG\.pool: .*; add the field"):
        parse_sidecar_config("{}")
    with pytest.raises(ConfigError, match="write valid JSON"):
        parse_sidecar_config("{")


def test_overrides_replace_only_what_they_set() -> None:
    config = make_config()
    overrides = parse_live_overrides('{"nvme_deadline_seconds": 2.0}')
    changed = config.with_overrides(overrides)
    assert changed.nvme is not None
    assert config.nvme is not None
    assert changed.nvme.deadline_seconds == 2.0
    assert changed.model_copy(update={"nvme": config.nvme}) == config
    assert config.with_overrides(LiveOverrides()) == config
    assert config.with_overrides(LiveOverrides(log_level="Debug")).log_level == "Debug"
    without = make_config(nvme=None)
    assert without.with_overrides(overrides) == without


def test_overrides_pass_over_what_this_sidecar_does_not_know() -> None:
    """An upgraded operator writes them for pods that keep their sidecars."""
    overrides = parse_live_overrides('{"watermark": 3, "log_level": "Debug"}')
    assert overrides == LiveOverrides(log_level="Debug")


class NewerConfig(SidecarConfig):
    """As a later version may be."""

    encryption: bool = Field(default=False, json_schema_extra=REFUSED)
    speculation: bool = Field(default=False, json_schema_extra=IGNORED)


def newer(**changes: Any) -> NewerConfig:
    return NewerConfig.model_validate({**make_config().model_dump(), **changes})


def test_older_sidecar_passes_over_what_it_can_do_without() -> None:
    assert parse_sidecar_config(newer(speculation=True).render()) == make_config()


def test_older_sidecar_refuses_what_it_may_not_ignore_and_says_what_to_do() -> None:
    says = r"SPILLWAY_CONFIG\.encryption: is not known .*; use a sidecar image that knows it"
    with pytest.raises(ConfigError, match=says):
        parse_sidecar_config(newer(encryption=True).render())


def test_newer_webhook_that_asks_for_nothing_new_requires_nothing_new() -> None:
    assert parse_sidecar_config(newer(encryption=False).render()) == make_config()


def test_newer_sidecar_reads_what_an_older_webhook_renders() -> None:
    assert NewerConfig.model_validate_json(make_config().render()) == newer()


def test_required_are_the_marked_fields_that_are_not_at_their_defaults() -> None:
    assert "requires" not in json.loads(make_config().render())
    nvme = {**json.loads(make_config().render())["nvme"], "slots": 2, "io_threads": 4}
    config = make_config(cache_epoch=3, log_level="Debug", nvme=nvme)
    assert json.loads(config.render())["requires"] == ["cache_epoch", "nvme.slots"]
    assert parse_sidecar_config(config.render()) == config


@pytest.mark.parametrize("model", [SidecarConfig, PoolIdentity, DramConfig, NvmeConfig, LiveOverrides])
def test_every_field_says_what_a_sidecar_does_that_does_not_know_it(model: type[BaseModel]) -> None:
    unmarked = [name for name, field in model.model_fields.items() if field.json_schema_extra not in (REFUSED, IGNORED)]
    # What a sidecar passes over may be absent; what may be absent has a default.
    assert unmarked == [], "say it with json_schema_extra"


@given(st.integers(64 * MIB, 1 << 42), st.integers(0, 1 << 50))
def test_index_has_two_entries_per_chunk_within_its_bounds(dram_bytes: int, nvme_bytes: int) -> None:
    size = index_bytes(dram_bytes, nvme_bytes)
    assert size % MIB == 0
    assert MIN_INDEX_BYTES <= size <= MAX_INDEX_BYTES
    chunks = (dram_bytes + nvme_bytes) / (256 * 1024)
    assert size == MAX_INDEX_BYTES or (size - index_table_bytes(dram_bytes)) / 64 >= 2 * chunks
    assert size <= MIN_INDEX_BYTES or size - MIB < 64 * 2 * (chunks + 1) + index_table_bytes(dram_bytes), (
        "no more than that"
    )


@given(st.integers(64 * MIB, 1 << 42), st.integers(0, 1 << 46))
def test_heap_holds_what_policy_knows_of_every_chunk_that_the_index_is_for(dram_bytes: int, nvme_bytes: int) -> None:
    entries = index_bytes(dram_bytes, nvme_bytes)
    heap = heap_bytes(entries)
    assert heap % MIB == 0
    chunks = entries // (2 * 64)
    assert policy_bytes(heap) >= chunks * POLICY_BYTES_PER_CHUNK
    assert heap - HEAP_BASE_BYTES < chunks * (POLICY_BYTES_PER_CHUNK + BOOK_BYTES_PER_CHUNK) + MIB, "no more than that"


@given(st.integers(64 * MIB, 1 << 42))
def test_policy_never_gets_more_than_half_of_what_is_added_or_an_eighth(heap: int) -> None:
    assert policy_bytes(heap) <= max((heap - HEAP_BASE_BYTES) / 2, heap / 8)


def test_package_imports_nothing() -> None:
    """spillway/__init__.py runs inside foreign engines."""
    program = "import sys; before = set(sys.modules); import spillway; print(sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['spillway']"
