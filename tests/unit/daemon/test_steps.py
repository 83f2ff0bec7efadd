"""An engine that stands still inside a step is named, and one that only is in one is not."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from spillway.config import DramConfig, PoolIdentity, SidecarConfig
from spillway.daemon.conditions import find_conditions
from spillway.daemon.steps import STOPPED_SECONDS, Steps

from tests.unit.client.conftest import Side
from tests.unit.clock import Clock
from tests.unit.core.pod import Pod


@pytest.fixture
def side(tmp_path: Path) -> Side:
    for name in ("arena", "index", "run"):
        (tmp_path / name).mkdir(exist_ok=True)
    side = Side(Pod(tmp_path))
    side.attach()
    return side


def test_engine_that_stands_still_inside_a_step_is_named_while_slots_wait_for_it(side: Side) -> None:
    clock, numbers = Clock(), range(4)
    steps = Steps(clock)
    side.store("a", numbers)
    side.resolve("b", numbers)  # the step begins, and does not end
    assert steps.stopped(side.pod.plane.stats()) == []
    clock.now += STOPPED_SECONDS
    assert steps.stopped(side.pod.plane.stats()) == []  # nothing waits for it

    assert side.pod.plane.evict_dram([side.pod.key16(0)]) == [True]
    for _ in range(3):
        side.pod.turn()
    assert side.pod.plane.stats().recycling_slots == 1
    (tag,) = steps.stopped(side.pod.plane.stats())
    config = SidecarConfig(
        pool=PoolIdentity(namespace="n", name="p", uid="u"), revision="r", dram=DramConfig(capacity_bytes=64 << 20),
        index_bytes=4 << 20,
    )  # fmt: skip
    conditions = find_conditions(config, side.pod.plane.report(), side.pod.plane.stats(), stopped=[tag])
    assert [(c.type, c.reason) for c in conditions] == [("Degraded", "EngineStopped")]

    side.session.step_ended()
    side.pod.until("recycling", lambda: side.pod.plane.stats().recycling_slots == 0)
    assert steps.stopped(side.pod.plane.stats()) == []


def test_engine_that_goes_from_step_to_step_is_not_named() -> None:
    clock = Clock()
    steps = Steps(clock)
    for epoch in (1, 2, 3):
        engine = SimpleNamespace(incarnation=b"a", tag=0, step_epoch=epoch)
        assert steps.stopped(SimpleNamespace(recycling_slots=1, engines=[engine])) == []
        clock.now += STOPPED_SECONDS
