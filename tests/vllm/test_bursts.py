"""What comes all at once: the first long prompt of an engine, and more requests than there are tickets."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from spillway import _core

from tests.vllm.kit import CHUNK_TOKENS, Engine, Pod, prompt, wait_for


@pytest.mark.parametrize("dram_mib", [256, 64])
def test_first_long_prompt_of_an_engine_is_stored_whole(
    make_pod: Callable[..., Pod], make_engine: Callable[..., Engine], dram_mib: int
) -> None:
    """In the smaller arena an engine's leases are fewer than the chunks of one step, so its stores go in parts."""
    pod = make_pod(dram_mib=dram_mib)
    pod.start_daemon()
    engine = make_engine(pod, max_num_batched_tokens=8192)
    engine.warm_up()
    long = prompt(1, 20 * CHUNK_TOKENS + 10)
    # One token, so that the request is over when its first chunks are offered.
    tokens = engine.ask("generate", prompt=long, max_tokens=1)["tokens"]
    assert engine.ask("drain")["done"]
    wait_for("all chunks to be inserted", lambda: pod.chunks()[0] == 20)
    assert engine.ask("reset_device")["done"]
    before = engine.external_tokens()
    assert engine.ask("generate", prompt=long, max_tokens=1)["tokens"] == tokens
    assert engine.external_tokens() - before == 20 * CHUNK_TOKENS
    counters = engine.ask("facts")["counters"]
    assert (counters["store_declined"], counters["store_ended"]) == (0, 0)


def test_chunks_that_wait_for_slots_after_their_request_give_way_to_other_requests(
    make_pod: Callable[..., Pod], make_engine: Callable[..., Engine]
) -> None:
    """While no slot comes, vLLM gives the request's free blocks away; what is stored after is what was computed for it."""
    pod = make_pod(dram_mib=64)
    pod.start_daemon()
    engine = make_engine(pod, max_model_len=5400, max_num_batched_tokens=8192, num_gpu_blocks_override=200)
    engine.warm_up()
    long, other = prompt(1, 20 * CHUNK_TOKENS + 10), prompt(2, 20 * CHUNK_TOKENS + 10)
    with pod.stopped_daemon():
        first = engine.ask("generate", prompt=long, max_tokens=1)["tokens"]
        engine.ask("drain", seconds=0.2)
        assert engine.ask("facts")["lingering"] == 1
        second = engine.ask("generate", prompt=other, max_tokens=1)["tokens"]
        engine.ask("drain", seconds=0.2)
        assert engine.ask("facts")["lingering"] == 1  # the other's; 200 blocks do not hold both
    assert engine.ask("drain")["done"]
    wait_for("the other's chunks to be inserted", lambda: pod.chunks()[0] > 20)
    assert engine.ask("reset_device")["done"]
    assert engine.ask("generate", prompt=long, max_tokens=1)["tokens"] == first
    assert engine.ask("generate", prompt=other, max_tokens=1)["tokens"] == second


def test_requests_that_wait_for_the_load_of_their_common_prefix_go_on_after_it(
    make_pod: Callable[..., Pod], make_engine: Callable[..., Engine]
) -> None:
    pod = make_pod()
    pod.start_daemon()
    engine = make_engine(pod)
    engine.warm_up()
    shared = prompt(1, 12 * CHUNK_TOKENS)
    prompts = [shared + prompt(seed, 40) for seed in range(2, 14)]
    first = engine.ask("generate_all", prompts=prompts)["tokens"]
    wait_for("the prefix to be inserted", lambda: pod.chunks()[0] >= 12)
    assert engine.ask("reset_device")["done"]
    before = engine.external_tokens()
    assert engine.ask("generate_all", prompts=prompts)["tokens"] == first
    assert engine.external_tokens() - before == 12 * CHUNK_TOKENS  # one loads, the others find it on the device
    assert engine.ask("facts")["problem"] is None


def test_burst_beyond_the_tickets_loads_all(make_pod: Callable[..., Pod], make_engine: Callable[..., Engine]) -> None:
    pod = make_pod(dram_mib=512)
    pod.start_daemon()
    engine = make_engine(pod, max_num_seqs=400, num_gpu_blocks_override=8192)
    engine.warm_up()
    prompts = [prompt(seed, CHUNK_TOKENS + 10) for seed in range(1000, 1000 + _core.MAX_TICKETS + 44)]
    first = engine.ask("generate_all", prompts=prompts, max_tokens=8)["tokens"]
    wait_for("all chunks to be inserted", lambda: pod.chunks()[0] == len(prompts))
    assert engine.ask("reset_device")["done"]
    before = engine.external_tokens()
    assert engine.ask("generate_all", prompts=prompts, max_tokens=8)["tokens"] == first
    assert engine.external_tokens() - before == len(prompts) * CHUNK_TOKENS
    assert engine.ask("facts")["counters"]["load_failures"] == 0
    assert "evicted before they could be pinned" not in engine.log.read_text(errors="replace")
