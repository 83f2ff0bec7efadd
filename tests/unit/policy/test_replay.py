"""The bench that judges the eviction orders: what it reads, and that its references are what they are called."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.replay import Score, prefill_seconds, replay
from bench.replay_policies import ORDERS, REFERENCES, Cache
from bench.replay_traces import Trace, make_trace, read_trace

POLICIES = {**REFERENCES, **ORDERS}


@st.composite
def prefix_trees(draw: st.DrawFn) -> list[list[int]]:
    """Requests that each go on from some place in an earlier one: a chunk always has the same prefix."""
    requests: list[list[int]] = []
    fresh = 0
    for _ in range(draw(st.integers(1, 25))):
        start = draw(st.sampled_from(requests)) if requests and draw(st.booleans()) else []
        new = draw(st.integers(1, 4))
        requests.append([*start[: draw(st.integers(0, len(start)))], *range(fresh, fresh + new)])
        fresh += new
    return requests


def found(make: Callable[[int, Sequence[Sequence[int]]], Cache], size: int, requests: list[list[int]]) -> float:
    """The share that is found, all requests being in the first half."""
    trace = Trace("", [*requests, *[[]] * len(requests)], 1)
    return replay(trace, make(size, trace.requests)).first


@given(prefix_trees(), st.integers(1, 12))
def test_nothing_finds_more_than_the_optimum_and_all_find_the_same_where_all_fits(
    requests: list[list[int]], size: int
) -> None:
    optimum = found(REFERENCES["Belady"], size, requests)
    everything = {name: found(make, 1000, requests) for name, make in POLICIES.items()}
    assert len(set(everything.values())) == 1
    for make in POLICIES.values():
        assert found(make, size, requests) <= optimum


@given(prefix_trees(), st.integers(5, 30))
def test_the_order_of_nvme_is_least_recently_used(requests: list[list[int]], size: int) -> None:
    fitting = [chain[:size] for chain in requests]
    assert found(ORDERS["NVMe"], size, fitting) == found(REFERENCES["LRU"], size, fitting)


@given(prefix_trees(), st.integers(1, 12), st.sampled_from(["LRU", "ARC", "S3-FIFO", "Belady", "DRAM", "NVMe"]))
def test_no_policy_holds_more_than_its_size(requests: list[list[int]], size: int, name: str) -> None:
    cache = POLICIES[name](size, requests)
    chunks = {chunk for chain in requests for chunk in chain}
    for chain in requests:
        cache.request(chain, next((at for at, chunk in enumerate(chain) if not cache.has(chunk)), len(chain)))
        assert sum(map(cache.has, chunks)) <= size


def test_halves_are_scored_apart() -> None:
    trace = Trace("", [[1, 2], [1, 2], [1, 3], [1, 3]], 512)
    assert replay(trace, REFERENCES["LRU"](10, trace.requests)) == Score(
        0.5, 0.75, prefill_seconds(512) + prefill_seconds(1024)
    )


def write(path: Path, records: list[dict[str, object]]) -> Path:
    text = "".join(json.dumps(record) + "\n" for record in records).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path


def test_chat_requests_are_read_in_order_of_time_without_their_last_part_of_a_block(tmp_path: Path) -> None:
    records: list[dict[str, object]] = [
        {"timestamp": 2000, "input_length": 1100, "hash_ids": [7, 9, 11]},
        {"timestamp": 1000, "input_length": 1024, "hash_ids": [7, 8]},
    ]
    trace = read_trace(write(tmp_path / "chat.jsonl", records), 512)
    assert (trace.requests, trace.chunk_tokens, trace.sampled) == ([[0, 1], [0, 2]], 512, 1.0)


def test_sessions_have_ids_of_their_own_and_blocks_are_joined_to_chunks(tmp_path: Path) -> None:
    session = {"block_size": 64, "requests": [{"t": 0.0, "in": 64 * 5, "hash_ids": [1, 2, 3, 4, 5]}]}
    trace = read_trace(write(tmp_path / "agents.jsonl.gz", [session, session]), 128)
    assert (trace.requests, trace.chunk_tokens) == ([[0, 1], [2, 3]], 128)


def test_a_large_trace_is_sampled_by_whole_conversations(tmp_path: Path) -> None:
    records: list[dict[str, object]] = [
        {"block_size": 16, "input_length": 64, "hash_ids": [0, talk, 10_000 + talk, 20_000 + talk]}
        for _turn in range(2)
        for talk in range(1, 1001)
    ]
    path = write(tmp_path / "large.jsonl", records)
    trace = read_trace(path, 16, max_chunks=2000)
    assert trace.sampled < 1
    assert sum(map(len, trace.requests)) <= 2000
    assert len(trace.requests) == pytest.approx(2000 * trace.sampled, rel=0.3)
    half = len(trace.requests) // 2
    assert trace.requests[:half] == trace.requests[half:]
    assert read_trace(path, 16, max_chunks=2000) == trace


@pytest.mark.parametrize("records", [[], [{"question": 1}]])
def test_what_is_no_trace_is_refused(tmp_path: Path, records: list[dict[str, object]]) -> None:
    with pytest.raises(ValueError, match=r"no requests|neither"):
        read_trace(write(tmp_path / "other.jsonl", records), 512)


def test_the_made_up_trace_is_always_the_same() -> None:
    assert make_trace(512) == make_trace(512)
