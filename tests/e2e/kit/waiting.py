"""Bounded waits. An expired one says what it waited for and what it saw last."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

Seen = TypeVar("Seen")


def wait_for(what: str, look: Callable[[], Seen | None], seconds: float, every: float = 0.25) -> Seen:
    """Call `look` until it returns something that is neither None nor False; return that.

    An exception of `look` counts as "not yet" and is shown on expiry. Raises AssertionError after `seconds`.
    """
    end = time.monotonic() + seconds
    last: object = "nothing"
    while True:
        try:
            seen = look()
        except Exception as error:  # noqa: BLE001 - whatever the look raised is part of the story told on expiry
            seen, last = None, f"{type(error).__name__}: {error}"
        else:
            if seen is not None and seen is not False:
                return seen
            last = seen
        if time.monotonic() > end:
            raise AssertionError(f"waited {seconds:.0f} s for {what}; last seen: {last}")
        time.sleep(every)
