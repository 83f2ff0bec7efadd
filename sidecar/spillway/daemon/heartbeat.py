"""The daemon's word to its supervisor: by when it says something again. One that lets that pass stands still and is killed.

The supervisor names the descriptor of an 8-byte file; the word in it is a time on CLOCK_MONOTONIC in nanoseconds, 0 before the first
promise. Each turn of the loop renews it; what may take longer than a turn promises its own time before it begins.
"""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Mapping
from typing import Final

HEARTBEAT_ENV: Final = "SPILLWAY_HEARTBEAT_FD"
RESTARTS_ENV: Final = "SPILLWAY_DAEMON_RESTARTS"
WORD_BYTES: Final = 8
# A turn takes milliseconds; what was seen to stand still (a heap at its cap) never came back.
TURN_SECONDS: Final = 10.0
# Why a daemon ended: by itself, by a signal, because it stood still, or it could not be started.
CAUSES: Final = ("exit", "signal", "stalled", "not_started")


class Heartbeat:
    """Writes the promises; without a supervisor nobody reads them. Raises OSError or ValueError for a descriptor that is none."""

    def __init__(self, descriptor: int | None) -> None:
        memory = mmap.mmap(-1 if descriptor is None else descriptor, WORD_BYTES)
        # One aligned store of 8 bytes, which no reader sees half of.
        self._word = memoryview(memory).cast("Q")

    @classmethod
    def from_environment(cls) -> Heartbeat:
        """The one that the supervisor gave."""
        named = os.environ.get(HEARTBEAT_ENV)
        return cls(None if named is None else int(named))

    def promise(self, seconds: float = TURN_SECONDS) -> None:
        """Say that the next promise follows within `seconds`."""
        self._word[0] = time.monotonic_ns() + int(seconds * 1e9)


def restarts_by_cause(environment: Mapping[str, str] = os.environ) -> dict[str, int]:
    """How many daemons ended in this container before this one, by cause, as the supervisor counts them: `exit=1 signal=0 ...`."""
    pairs = (pair.partition("=") for pair in environment.get(RESTARTS_ENV, "").split())
    return dict.fromkeys(CAUSES, 0) | {cause: int(count) for cause, _, count in pairs}
