"""Which vLLM is entered, and how an interface that moved is told."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from spillway.adapters.vllm.compat import (
    Interface,
    cache_hit_source,
    ends_in_its_step,
    interface_problem,
    tokens_by_source,
    version_problem,
)


@pytest.mark.parametrize(
    "version", ["0.33.0", "0.32.0", "0.31.1", "0.32.3", "0.32.0+cpu", "0.33.1+cu129", "0.32.0.post1"]
)
def test_releases_of_a_tested_minor_are_entered(version: str) -> None:
    assert version_problem(version) is None


@pytest.mark.parametrize("version", ["0.30.0", "0.34.0", "0.32.1.dev7+g1a2b3c", "0.32.1rc1", "0.320.0", "dev", ""])
def test_everything_else_is_left_alone_by_name(version: str) -> None:
    assert f"not with {version}" in str(version_problem(version))


def test_interface_that_moved_is_named() -> None:
    assert interface_problem([Interface("json", "JSONEncoder.encode", ("o",))]) is None
    assert "json.JSONEncoder.gone is not there" in str(interface_problem([Interface("json", "JSONEncoder.gone")]))
    assert "nowhere.x is not there" in str(interface_problem([Interface("nowhere", "x")]))
    assert "does not take expedited" in str(interface_problem([Interface("json", "loads", ("s", "expedited"))]))


class Sources:
    """vLLM's half as 0.31 has it: one load of two chunks of one group, one of them from NVMe."""

    def __init__(self) -> None:
        state = SimpleNamespace(offload_keys=[b"a", b"b", b"c"])
        self._req_status = {"r": SimpleNamespace(group_states=[state], transfer_jobs={7}, req_context="context")}
        self._jobs = {7: SimpleNamespace(keys={b"a", b"b"})}
        self.config = SimpleNamespace(kv_group_configs=[SimpleNamespace(tokens_per_chunk=256)])


def test_minor_that_does_not_tell_where_tokens_come_from_is_asked_key_by_key() -> None:
    source = cache_hit_source()
    request = SimpleNamespace(request_id="r")

    def source_of(key: bytes, context: str) -> object:
        assert context == "context"
        return source.DISK if key == b"b" else source.HOST

    assert tokens_by_source(Sources(), request, 512, source_of) == {source.HOST: 256, source.DISK: 256}
    assert sum(tokens_by_source(Sources(), request, 300, source_of).values()) == 300


def test_load_of_a_minor_without_loads_inside_a_step_is_waited_for() -> None:
    assert not ends_in_its_step(SimpleNamespace(req_id="r"))
    assert ends_in_its_step(SimpleNamespace(req_id="r", sync=True))
