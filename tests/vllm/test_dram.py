"""Store, load and outlive, through DRAM alone, in a pod whose first engine is up before its sidecar.

The tests share two engines and run in order; each uses prompts of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pytest

from tests.vllm.kit import Engine, Pod, prompt, wait_for

# 62 slots of 1 MiB.
DRAM_MIB = 64
EARLY = 1


class Engines(NamedTuple):
    pod: Pod
    early: Engine
    later: Engine
    cold_tokens: list[int]


@pytest.fixture(scope="module")
def engines(make_pod: Callable[..., Pod], make_engine: Callable[..., Engine]) -> Engines:
    pod = make_pod(dram_mib=DRAM_MIB)
    early = make_engine(pod)
    cold = early.ask("generate", prompt=prompt(EARLY))["tokens"]  # without a sidecar: cold, and well
    pod.start_daemon()
    later = make_engine(pod)
    for engine in (early, later):
        engine.warm_up()
    return Engines(pod, early, later, cold)


def store(engines: Engines, engine: Engine, seed: int) -> list[int]:
    """Generate, and wait until the prompt's three chunks are in the index."""
    before = engines.pod.chunks()[0]
    tokens: list[int] = engine.ask("generate", prompt=prompt(seed))["tokens"]
    wait_for("three chunks to be inserted", lambda: engines.pod.chunks()[0] >= before + 3)
    return tokens


def load(engine: Engine, seed: int) -> tuple[list[int], int]:
    """Generate with a device cache that was reset: tokens, and prompt tokens that came from outside."""
    assert engine.ask("reset_device")["done"]
    before = engine.external_tokens()
    tokens: list[int] = engine.ask("generate", prompt=prompt(seed))["tokens"]
    return tokens, engine.external_tokens() - before


def test_engine_that_was_up_before_its_sidecar_stores_and_loads(engines: Engines) -> None:
    engines.early.ask("reset_device")
    assert store(engines, engines.early, EARLY) == engines.cold_tokens
    assert load(engines.early, EARLY) == (engines.cold_tokens, 768)
    assert engines.early.cached_tokens("host") in (None, 768)


def test_another_engine_process_loads_what_the_first_stored(engines: Engines) -> None:
    assert load(engines.later, EARLY) == (engines.cold_tokens, 768)


def test_load_begins_inside_a_chunk_whose_first_blocks_are_on_the_device(engines: Engines) -> None:
    engines.later.ask("reset_device")
    engines.later.ask("generate", prompt=prompt(EARLY)[:72], max_tokens=1)  # two of the first chunk's eight blocks
    external = engines.later.external_tokens()
    assert engines.later.ask("generate", prompt=prompt(EARLY))["tokens"] == engines.cold_tokens
    assert engines.later.external_tokens() - external == 768 - 64


def test_generated_tokens_are_loaded_by_the_next_turn(engines: Engines) -> None:
    pod, engine = engines.pod, engines.later
    before = pod.chunks()[0]
    answer = engine.ask("generate", prompt=prompt(7, 400), max_tokens=150)["tokens"]
    engine.ask(
        "generate", prompt=prompt(8, 40), max_tokens=1
    )  # a finished request's last chunk goes with the next step
    wait_for("both chunks to be inserted", lambda: pod.chunks()[0] >= before + 2)
    engine.ask("reset_device")
    external = engine.external_tokens()
    engine.ask("generate", prompt=prompt(7, 400) + answer + prompt(9, 30))
    assert engine.external_tokens() - external == 512


def test_waiters_on_a_load_are_not_looked_up_again_while_nothing_changes(engines: Engines) -> None:
    engine = engines.later
    tokens = store(engines, engine, 10)
    engine.ask("reset_device")
    engine.ask("hold_copies", held=True)
    engine.ask("start", prompt=prompt(10), steps=2)
    engine.ask("count_resolves")
    for _ in range(3):
        engine.ask("start", prompt=prompt(10), steps=1)
    before = engine.ask("facts")["resolves"]
    engine.ask("step", steps=50)
    assert engine.ask("facts")["resolves"] - before <= 3
    engine.ask("hold_copies", held=False)
    assert engine.ask("finish")["all"] == [tokens] * 4


def test_vllms_own_counters_equal_ours(engines: Engines) -> None:
    engine = engines.later
    names = ("kv_offload_load_bytes", "kv_offload_store_bytes")
    before, ours = engine.ask("metrics"), engine.ask("facts")["counters"]
    tokens = store(engines, engine, 30)
    assert load(engine, 30) == (tokens, 768)
    engine.ask("generate", prompt=prompt(0, 40), max_tokens=2)  # figures of a step come with the next one
    after, now = engine.ask("metrics"), engine.ask("facts")["counters"]
    moved = {name: after.get(name, 0) - before.get(name, 0) for name in names}
    chunk_bytes = 256 * 4 * 2 * 2 * 64 * 4
    assert moved == dict.fromkeys(names, 3 * chunk_bytes)
    assert now["loaded_chunks"] - ours["loaded_chunks"] == 3
    assert now["stored_chunks"] - ours["stored_chunks"] == 3


def test_idle_engine_does_not_stop_evictions(engines: Engines) -> None:
    engines.early.ask("generate", prompt=prompt(100))  # its last step is over; nothing calls it any more
    for seed in range(201, 240):
        engines.later.ask("generate", prompt=prompt(seed), max_tokens=1)
    tokens = engines.later.ask("generate", prompt=prompt(240))["tokens"]
    wait_for("recycling to end", lambda: engines.pod.slot_states().get(4, 0) == 0)
    assert load(engines.later, 240) == (tokens, 768)
    assert load(engines.early, EARLY)[0] == engines.cold_tokens


def test_hits_go_on_without_a_sidecar_and_stores_with_its_successor(engines: Engines) -> None:
    tokens = engines.early.ask("generate", prompt=prompt(300))["tokens"]
    wait_for("the chunks to be inserted", lambda: load(engines.early, 300) == (tokens, 768))
    engines.pod.kill_daemon()
    assert load(engines.early, 300) == (tokens, 768)
    assert engines.early.ask("generate", prompt=prompt(301))["tokens"]

    engines.pod.start_daemon()
    fresh = engines.early.ask("generate", prompt=prompt(302))["tokens"]
    wait_for("the successor to insert", lambda: load(engines.early, 302) == (fresh, 768))


def test_killed_engine_gives_its_slots_back(engines: Engines) -> None:
    engines.later.ask("hold_copies", held=True)
    engines.later.ask("start", prompt=prompt(400), steps=4)
    assert engines.later.ask("facts")["jobs"] > 0
    assert engines.pod.slot_states().get(1, 0) > 0
    engines.early.close()
    engines.later.process.kill()
    engines.later.process.wait(timeout=30)
    wait_for("the leases to come back", lambda: engines.pod.slot_states().get(1, 0) == 0)
