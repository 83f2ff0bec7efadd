"""Lines that say what is going on and for how long, on stderr so that stdout stays for answers."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

_STARTED: Final = time.monotonic()
_REMINDER_SECONDS: Final = 15.0
# Steps under way, the innermost last.
_running: list[str] = []


def say(text: str) -> None:
    """Print one line with the seconds since the program started."""
    print(f"[{time.monotonic() - _STARTED:6.1f} s] {text}", file=sys.stderr, flush=True)


@contextmanager
def step(what: str) -> Iterator[None]:
    """Announce a step, remind every 15 s that it still runs, and say how long it took."""
    say(f"{what} ...")
    started = time.monotonic()
    finished = threading.Event()
    _running.append(what)

    def remind() -> None:
        while not finished.wait(_REMINDER_SECONDS):
            # A step inside this one speaks for both.
            if _running[-1] == what:
                say(f"{what}: still at it after {time.monotonic() - started:.0f} s")

    reminder = threading.Thread(target=remind, daemon=True)
    reminder.start()
    try:
        yield
    finally:
        finished.set()
        reminder.join()
        _running.remove(what)
    say(f"{what}: {time.monotonic() - started:.1f} s")
