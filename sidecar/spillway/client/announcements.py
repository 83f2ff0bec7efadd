"""What routers were told this engine can load, kept true: a chunk is told of once it can be loaded, and again when it leaves.

The sidecar inserts, moves and evicts without a word to the engine, so what was told is looked up again, some of it at every
step in which anything became hit or miss.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice
from typing import Final, NamedTuple

from spillway import _core

# A lookup of so many keys takes tens of microseconds.
LOOKED_UP_PER_STEP: Final = 256
# 36 bytes of key each, and what a dictionary adds.
MAX_TOLD: Final = 65_536


class Change(NamedTuple):
    """`before` and `now`: MISS, HIT (in DRAM) or NVME."""

    key: bytes
    before: int
    now: int


class Announcements:
    """Chunks that this engine stored, and what was last told of each."""

    def __init__(self) -> None:
        self._told: dict[bytes, int] = {}
        self._dropped: list[Change] = []
        self._word: int | None = None
        # How many are still to be looked up because of the newest word.
        self._left = 0

    def expect(self, keys: Iterable[bytes]) -> None:
        """These were published; they are told of when they can be loaded."""
        for key in keys:
            self._told.setdefault(key, _core.MISS)
        self._left = len(self._told)
        while len(self._told) > MAX_TOLD:
            self._drop(next(iter(self._told)))

    def forget(self) -> None:
        """None of them can be loaded by this engine any more."""
        for key in list(self._told):
            self._drop(key)

    def _drop(self, key: bytes) -> None:
        before = self._told.pop(key)
        if before != _core.MISS:
            self._dropped.append(Change(key, before, _core.MISS))

    def changes(self, word: int, lookup: Callable[[bytes], bytes]) -> list[Change]:
        """What has to be told now. word: the index's progress word; lookup: one answer per key of the joined keys."""
        found, self._dropped = self._dropped, []
        if word != self._word:
            self._word, self._left = word, len(self._told)
        keys = list(islice(self._told, min(self._left, LOOKED_UP_PER_STEP)))
        if not keys:
            return found
        self._left -= len(keys)
        for key, now in zip(keys, lookup(b"".join(keys)), strict=True):
            # To the end, so that the next step looks at others.
            before = self._told.pop(key)
            if now != before:
                found.append(Change(key, before, now))
            # One that was never loadable is on its way; one that has left is told of again when it is stored again.
            if now != _core.MISS or before == _core.MISS:
                self._told[key] = now
        return found
