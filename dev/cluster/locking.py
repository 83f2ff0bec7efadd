"""One at a time: two calls of the harness must not build the same image or start the same cluster together."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dev.cluster.progress import say


@contextmanager
def only_one(folder: Path, what: str) -> Iterator[None]:
    """Hold the lock of `what`, saying so where another process holds it. Waits without bound: the holder makes progress."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{what}.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"waiting for another process that works on {what}")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
