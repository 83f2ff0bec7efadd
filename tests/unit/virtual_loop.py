"""An event loop whose time passes only where nothing else is to do: an hour of timers takes as long as what they do.

For coroutines alone: whoever waits for a thread or a socket waits in real time, which this loop has not.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any


class _Skipping(selectors.SelectSelector):
    """Where the loop would sleep, its time moves on instead."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        assert timeout is not None, "nothing is ready and no timer is set: the test waits for what never comes"
        self.now += max(timeout, 0.0)
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    """Its `time` begins at 0 and is that of its timers."""

    def __init__(self) -> None:
        self._skipping = _Skipping()
        super().__init__(self._skipping)

    def time(self) -> float:
        return self._skipping.now


def run_virtually(main: Coroutine[Any, Any, None]) -> None:
    """Run `main` to its end on a loop of its own."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(main)
