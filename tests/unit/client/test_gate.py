"""The gate declines only what it has measured, and never for ever."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from spillway.client.gate import PROBE_EVERY, Gate, bucket_of


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


def make_gate(*, prefill_seconds: float = 1.0, samples: int = 4) -> Gate:
    """512 tokens per step, each step taking prefill_seconds, at a context of 1024."""
    clock = Clock()
    gate = Gate(full_step_tokens=512, clock=clock)
    for _ in range(samples):
        gate.step_scheduled(prefill_tokens=512, total_tokens=512, context_tokens=1024, continues=True)
        clock.now += prefill_seconds
    return gate


def measure_loads(gate: Gate, seconds: float, count: int = 3) -> None:
    for _ in range(count):
        gate.load.add(1 << 20, seconds)


def ask(gate: Gate) -> bool:
    return gate.worth_it(tokens=512, context_tokens=1024, load_bytes=1 << 20, promote_bytes=0)


def test_declines_nothing_until_both_sides_are_measured() -> None:
    gate = make_gate(samples=3)
    measure_loads(gate, seconds=100)
    assert ask(gate)
    gate = make_gate()
    measure_loads(gate, seconds=100, count=2)
    assert ask(gate)


def test_declines_a_load_that_is_slower_than_recompute() -> None:
    gate = make_gate(prefill_seconds=1.0)
    measure_loads(gate, seconds=1.1)
    assert not ask(gate)
    gate = make_gate(prefill_seconds=1.0)
    measure_loads(gate, seconds=0.9)
    assert ask(gate)


def test_waiting_for_nvme_counts_too() -> None:
    gate = make_gate(prefill_seconds=1.0)
    measure_loads(gate, seconds=0.5)
    for _ in range(3):
        gate.promotion.add(1 << 20, 0.6)
    assert not gate.worth_it(tokens=512, context_tokens=1024, load_bytes=1 << 20, promote_bytes=1 << 20)


def test_lets_one_in_sixteen_through() -> None:
    gate = make_gate()
    measure_loads(gate, seconds=100)
    assert [ask(gate) for _ in range(2 * PROBE_EVERY)].count(True) == 2


def test_steps_that_are_not_full_or_follow_an_idle_time_teach_nothing() -> None:
    clock = Clock()
    gate = Gate(full_step_tokens=512, clock=clock)
    for _ in range(10):
        gate.step_scheduled(prefill_tokens=512, total_tokens=512, context_tokens=1, continues=False)
        clock.now += 1
    for _ in range(10):
        gate.step_scheduled(prefill_tokens=100, total_tokens=100, context_tokens=1, continues=True)
        clock.now += 1
    assert gate.recompute_seconds(512, 1) is None


def test_nearest_measured_bucket_answers() -> None:
    assert make_gate(prefill_seconds=2.0).recompute_seconds(1024, 100_000) == pytest.approx(4.0)


@pytest.mark.parametrize(("tokens", "bucket"), [(0, 0), (1, 0), (1024, 0), (1025, 1), (2048, 1), (2049, 2), (8192, 3)])
def test_buckets_double(tokens: int, bucket: int) -> None:
    assert bucket_of(tokens) == bucket
