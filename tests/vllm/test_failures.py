"""What goes wrong goes past the engine: equal tokens, no exception, nothing pinned for ever."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.vllm.kit import Engine, Pod, prompt, wait_for

MakePod = Callable[..., Pod]
MakeEngine = Callable[..., Engine]


@pytest.fixture(scope="module")
def pod(make_pod: MakePod) -> Pod:
    pod = make_pod()
    pod.start_daemon()
    return pod


@pytest.fixture(scope="module")
def engine(pod: Pod, make_engine: MakeEngine) -> Engine:
    engine = make_engine(pod)
    engine.warm_up()
    return engine


def test_reset_while_a_load_is_held_pins_nothing_and_changes_no_token(pod: Pod, engine: Engine) -> None:
    cold = engine.ask("generate", prompt=prompt(1))["tokens"]
    wait_for("the chunks to be inserted", lambda: pod.chunks()[0] >= 3)
    engine.ask("reset_device")
    engine.ask("hold_copies", held=True)
    engine.ask("start", prompt=prompt(1), steps=2)
    assert engine.ask("facts")["open_tickets"] == 1
    engine.ask("reset_cache")
    engine.ask("hold_copies", held=False)

    assert engine.ask("finish")["tokens"] == cold
    wait_for("the ticket to be released", lambda: engine.ask("facts")["open_tickets"] == 0)
    before = engine.external_tokens()
    engine.ask("reset_device")
    assert engine.ask("generate", prompt=prompt(1))["tokens"] == cold
    # The weights may have changed at the reset: what was stored before is under another fingerprint.
    assert engine.external_tokens() == before


def test_failed_load_is_recomputed_once_and_the_request_ends(pod: Pod, engine: Engine) -> None:
    cold = engine.ask("generate", prompt=prompt(2))["tokens"]
    chunks = pod.chunks()[0]
    wait_for("the chunks to be inserted", lambda: pod.chunks()[0] >= min(chunks, 3))
    engine.ask("reset_device")
    engine.ask("fail_copies", failing=True)
    assert engine.ask("generate", prompt=prompt(2))["tokens"] == cold
    engine.ask("fail_copies", failing=False)
    facts = engine.ask("facts")
    assert facts["problem"] is None
    assert facts["counters"]["load_failures"] >= 1
    assert facts["open_tickets"] == 0


@pytest.mark.parametrize("failing", [False, True])
def test_load_within_the_step_that_computes_on_it(pod: Pod, engine: Engine, failing: bool) -> None:
    """vLLM since 0.33, where `sync_load_budget_bytes` is set."""
    if not engine.ask("load_within_steps", budget_bytes=1 << 30)["possible"]:
        pytest.skip("this vLLM has no loads within a step")
    seed = 20 + failing
    before, counters = pod.chunks()[0], engine.ask("facts")["counters"]
    cold = engine.ask("generate", prompt=prompt(seed))["tokens"]
    wait_for("the chunks to be inserted", lambda: pod.chunks()[0] >= before + 3)
    engine.ask("reset_device")
    engine.ask("fail_copies", failing=failing)
    first = engine.ask("start", prompt=prompt(seed), steps=1)
    assert engine.ask("finish")["tokens"] == cold
    engine.ask("fail_copies", failing=False)
    engine.ask("load_within_steps", budget_bytes=0)

    facts = engine.ask("facts")
    assert first["computed"] == (not failing)
    assert facts["counters"]["load_failures"] - counters["load_failures"] == failing
    # vLLM counts such tokens as loaded when it schedules them, whatever comes of it; we do when they are there.
    assert facts["counters"]["loaded_dram_tokens"] - counters["loaded_dram_tokens"] == (0 if failing else 768)
    assert facts["problem"] is None
    assert facts["open_tickets"] == 0
    assert facts["jobs"] == 0


def test_exception_inside_a_hook_makes_the_connector_inert(make_engine: MakeEngine, make_pod: MakePod) -> None:
    pod = make_pod()
    pod.start_daemon()
    engine = make_engine(pod)
    engine.warm_up()
    cold = engine.ask("generate", prompt=prompt(3))["tokens"]
    wait_for("the chunks to be inserted", lambda: pod.chunks()[0] >= 3)
    engine.ask("reset_device")
    engine.ask("break_hook", name="sent")  # after the load was prepared, before the ranks hear of it
    assert engine.ask("generate", prompt=prompt(3))["tokens"] == cold
    assert "broken by the test" in engine.ask("facts")["problem"]
    wait_for("the ticket to be released", lambda: engine.ask("facts")["open_tickets"] == 0)
    assert engine.ask("generate", prompt=prompt(4))["tokens"]


@pytest.mark.parametrize("hook", ["new_request", "resolve", "prepare_load", "request_finished"])
def test_request_that_cannot_be_handled_is_plain_and_the_others_load(pod: Pod, engine: Engine, hook: str) -> None:
    seed = {"new_request": 11, "resolve": 12, "prepare_load": 13, "request_finished": 14}[hook]
    before = pod.chunks()[0]
    cold = engine.ask("generate", prompt=prompt(seed))["tokens"]
    wait_for("the chunks to be inserted", lambda: pod.chunks()[0] >= before + 3)
    failed_open = engine.ask("facts")["counters"]["fail_open"]
    engine.ask("reset_device")

    engine.ask("break_for_one", hook=hook)
    assert engine.ask("generate", prompt=prompt(seed))["tokens"] == cold
    engine.ask("reset_device")
    external = engine.external_tokens()
    assert engine.ask("generate", prompt=prompt(seed))["tokens"] == cold
    assert engine.external_tokens() - external == 768

    facts = engine.ask("facts")
    assert facts["problem"] is None
    assert facts["counters"]["fail_open"] == failed_open + 1
    assert facts["open_tickets"] == 0


def test_hook_that_fails_for_every_request_makes_the_connector_inert(
    make_engine: MakeEngine, make_pod: MakePod
) -> None:
    pod = make_pod()
    pod.start_daemon()
    engine = make_engine(pod)
    engine.warm_up()
    engine.ask("break_hook", name="resolve")
    for seed in range(8):
        assert engine.ask("facts")["problem"] is None
        assert engine.ask("generate", prompt=prompt(seed, 300), max_tokens=1)["tokens"]
    assert "8 requests in a row failed" in engine.ask("facts")["problem"]
    assert engine.ask("generate", prompt=prompt(1, 300), max_tokens=1)["tokens"]
    assert "requests in a row failed" in (pod.root / "run" / "refusal").read_text()


def with_stores_held(make_engine: MakeEngine, make_pod: MakePod) -> tuple[Pod, Engine]:
    """An engine whose ranks have stores that do not end before `hold_copies` lets them."""
    pod = make_pod()
    pod.start_daemon()
    engine = make_engine(pod)
    engine.warm_up()
    engine.ask("hold_copies", held=True)
    engine.ask("start", prompt=prompt(3), steps=4)
    assert engine.ask("facts")["jobs"] > 0
    return pod, engine


def wait_for_leases(pod: Pod, engine: Engine) -> None:
    """Wait until no job is open and the engine holds no slot but those that were granted in advance."""

    def settled() -> bool:
        engine.ask("generate", prompt=prompt(0, 40), max_tokens=1)  # reports come with a step
        facts = engine.ask("facts")
        return facts["jobs"] == 0 and pod.slot_states().get(1, 0) == facts["granted"]

    wait_for("the leases to come back", settled)


def test_stores_under_way_when_a_hook_fails_give_their_slots_back_unpublished(
    make_engine: MakeEngine, make_pod: MakePod
) -> None:
    pod, engine = with_stores_held(make_engine, make_pod)
    engine.ask("break_hook", name="sent")
    engine.ask("step", steps=1)
    assert "broken by the test" in engine.ask("facts")["problem"]
    engine.ask("hold_copies", held=False)
    engine.ask("finish")
    wait_for_leases(pod, engine)
    assert pod.chunks()[0] == 0


def test_stores_that_end_in_the_step_that_fails_keep_no_slot(make_engine: MakeEngine, make_pod: MakePod) -> None:
    pod, engine = with_stores_held(make_engine, make_pod)
    engine.ask("break_completion")
    engine.ask("hold_copies", held=False)
    engine.ask("finish")
    assert "broken by the test" in engine.ask("facts")["problem"]
    wait_for_leases(pod, engine)


def test_engine_that_ends_inert_gives_everything_back_though_its_process_lives(
    make_engine: MakeEngine, make_pod: MakePod
) -> None:
    pod = make_pod()
    pod.start_daemon()
    engine = make_engine(pod)
    engine.warm_up()
    engine.ask("break_hook", name="sent")
    assert engine.ask("generate", prompt=prompt(3))["tokens"]
    assert "broken by the test" in engine.ask("facts")["problem"]
    assert pod.slot_states().get(1, 0) > 0, "granted slots are the engine's"
    assert engine.ask("shut_down")["copy_threads"] == []
    wait_for("the slots to come back", lambda: pod.slot_states().get(1, 0) == 0)
    assert engine.process.poll() is None


def test_rank_that_fails_ends_its_loads_and_nothing_is_claimed_after(
    make_engine: MakeEngine, make_pod: MakePod
) -> None:
    """The other rank loads well; the scheduler's half is in the driver's process, each rank in one of its own."""
    pod = make_pod()
    pod.start_daemon()
    engine = make_engine(
        pod,
        environment={"VLLM_CPU_OMP_THREADS_BIND": "0|1", "VLLM_ALLOW_INSECURE_SERIALIZATION": "1"},
        tensor_parallel_size=2,
    )
    engine.warm_up()
    engine.ask("break_rank", rank=1)  # by an RPC, after which the engine's chunks are its own alone
    cold = engine.ask("generate", prompt=prompt(3))["tokens"]
    wait_for("the chunks to be inserted", lambda: pod.chunks()[0] >= 3)
    engine.ask("reset_device")
    assert engine.ask("generate", prompt=prompt(3))["tokens"] == cold
    facts = engine.ask("facts")
    assert facts["problem"] == "rank 1: RuntimeError: broken by the test"
    assert facts["counters"]["fail_open"] == 1
    assert facts["counters"]["loaded_chunks"] == 3
    wait_for("the ticket to be released", lambda: engine.ask("facts")["open_tickets"] == 0)

    engine.ask("reset_device")
    assert engine.ask("generate", prompt=prompt(3))["tokens"] == cold
    assert engine.ask("generate", prompt=prompt(4))["tokens"]
    after = engine.ask("facts")
    assert after["counters"] == facts["counters"]
    assert after["jobs"] == 0
    assert pod.chunks()[0] == 3
    assert (
        engine.log.read_text().count("Spillway stays off until the engine restarts: rank 1: RuntimeError: broken") == 1
    )


def test_copy_that_does_not_end_keeps_its_slots_and_holds_up_nobody_else(
    make_engine: MakeEngine, make_pod: MakePod
) -> None:
    pod = make_pod()
    pod.start_daemon()
    engine = make_engine(pod)
    engine.warm_up()
    cold = engine.ask("generate", prompt=prompt(3))["tokens"]
    wait_for("the chunks to be inserted", lambda: pod.chunks()[0] >= 3)
    engine.ask("reset_device")
    engine.ask("hold_copies", held=True)
    engine.ask("call_copies_stuck_after", seconds=0.2)
    engine.ask("start", prompt=prompt(3), steps=2)
    wait_for("the rank to give up", lambda: engine.ask("step", steps=1) and engine.ask("facts")["problem"])
    assert "rank 0: StuckCopy: a copy has not ended" in engine.ask("facts")["problem"]

    engine.ask("start", prompt=prompt(4), steps=1)
    assert wait_for("another request", lambda: engine.ask("step", steps=1)["ended"])
    assert engine.ask("step", steps=1)["unfinished"]
    assert engine.ask("facts")["open_tickets"] == 1
    engine.ask("hold_copies", held=False)
    assert engine.ask("finish")["tokens"] == cold
    wait_for("the ticket to be released", lambda: engine.ask("facts")["open_tickets"] == 0)
    assert engine.ask("facts")["counters"]["fail_open"] == 1


def test_engine_without_shared_memory_serves(make_pod: MakePod, make_engine: MakeEngine, engine: Engine) -> None:
    pod = make_pod()
    alone = make_engine(pod, environment={"SPILLWAY_ROOT": str(pod.root / "absent")})
    cold = engine.ask("generate", prompt=prompt(5))["tokens"]
    assert alone.ask("generate", prompt=prompt(5))["tokens"] == cold
    assert alone.ask("facts")["connector"] == "SpillwayConnector"
    assert not alone.ask("facts")["ready"]
