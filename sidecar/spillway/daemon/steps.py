"""Engines that stand still inside a step: what was evicted since waits for them, for 5 s at most (core, `epoch`).

An engine is in a step from its first lookup to the end of the same scheduling round, which takes milliseconds. One that was
stopped there (a debugger, a frozen cgroup) holds up its neighbours in the pod until the core expels it from that step.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from spillway import _core

STOPPED_SECONDS: Final = 10.0


class Steps:
    """Remembers since when each engine is in the step that it is in."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since: dict[bytes, tuple[int, float]] = {}

    def stopped(self, stats: _core.Stats) -> list[int]:
        """Tags of the engines that have been in one step for ten seconds while evicted slots wait, or no longer wait for them; call it
        every few seconds."""
        now = self._clock()
        seen: dict[bytes, tuple[int, float]] = {}
        found: list[int] = []
        for engine in stats.engines:
            epoch, name = engine.step_epoch, engine.incarnation
            if epoch == 0:
                continue
            before = self._since.get(name)
            since = before[1] if before is not None and before[0] == epoch else now
            seen[name] = (epoch, since)
            if (stats.recycling_slots or stats.engines_expelled) and now - since >= STOPPED_SECONDS:
                found.append(engine.tag)
        self._since = seen
        return found
