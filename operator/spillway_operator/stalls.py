"""How long the event loop stands still: whatever else runs in it waits that long, the Lease's renewal too."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable

LOOK_EVERY_SECONDS = 0.05
# Below lies what a timer is late by on a busy machine.
LEAST_STALL_SECONDS = 0.05
# Of containers that are there: a page of pods holds some 30,000, and by Python's own 700 each page would cause a round over everything.
YOUNG_OBJECTS = 50_000


def spare_what_stays() -> None:
    """Keep the garbage collector from going over what stays: modules, which are there now, and objects, which a list brings.

    Such a round takes 80 ms over modules alone and grows with the pods. Rounds over what is young go on, and cycles end there.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, 10, 100)


async def watch_stalls(observe: Callable[[float], None]) -> None:
    """Tell `observe` the seconds of every stall; returns never. The error is `LOOK_EVERY_SECONDS` at most, downwards."""
    loop = asyncio.get_running_loop()
    while True:
        due_at = loop.time() + LOOK_EVERY_SECONDS
        await asyncio.sleep(LOOK_EVERY_SECONDS)
        late_seconds = loop.time() - due_at
        if late_seconds >= LEAST_STALL_SECONDS:
            observe(late_seconds)
