"""A loop that stands still is seen to do so."""

from __future__ import annotations

import asyncio
import time

from spillway_operator.stalls import watch_stalls


async def test_a_stall_is_told_with_its_length() -> None:
    stalls: list[float] = []
    told = asyncio.Event()

    def observe(seconds: float) -> None:
        stalls.append(seconds)
        told.set()

    watching = asyncio.create_task(watch_stalls(observe))
    await asyncio.sleep(0)
    time.sleep(0.3)  # what is measured
    await asyncio.wait_for(told.wait(), 10)
    watching.cancel()
    assert stalls[0] >= 0.2
