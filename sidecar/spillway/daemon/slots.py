"""Whether the store's folder has a slot that nobody holds. A pod that is being replaced keeps its slot until its daemon ends."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

# Neither a link is followed nor a pipe waited for, whoever put them there.
_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK


def has_free_slot(folder: Path, slots: int) -> bool:
    """Try each slot's lock and let go of it at once. False also where a lock cannot be opened."""
    return any(_is_free(folder / f"slot-{number}") for number in range(slots))


def _is_free(slot: Path) -> bool:
    try:
        opened = os.open(slot, _FLAGS | os.O_DIRECTORY)
    except OSError:
        return False
    try:
        with os.fdopen(os.open("lock", _FLAGS, dir_fd=opened), "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
    except OSError:
        return False
    finally:
        os.close(opened)
