"""A clock that stands still until a test moves it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Clock:
    """Seconds, as of `time.monotonic`."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now
