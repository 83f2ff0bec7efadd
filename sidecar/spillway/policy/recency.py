"""Least recently used, per slot class. An engine sends a request's keys suffix first, so a suffix leaves before its prefix.

Slots are cut from extents, and an extent serves one class. `donor` says when one should change hands: otherwise a disk
that an earlier model filled would stay that model's for ever.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from itertools import count as count_up

# A whole extent leaves its class for one chunk of another, so the difference in age must be clear (the figure is arbitrary).
DONOR_MARGIN = 8


class Recency:
    """Keys of one tier in order of use, oldest first, apart for each slot class."""

    def __init__(self) -> None:
        # By class, each with the time of its last use: a count of uses, the same for all classes.
        self._order: dict[int, OrderedDict[bytes, int]] = {}
        self._class_of: dict[bytes, int] = {}
        self._clock = count_up()

    def __len__(self) -> int:
        return len(self._class_of)

    def __contains__(self, key: object) -> bool:
        return key in self._class_of

    def add(self, key: bytes, class_id: int) -> None:
        """Take a chunk in, or up, as the most recent of its class."""
        if key in self._class_of:
            self.discard(key)
        self._class_of[key] = class_id
        order = self._order.get(class_id)
        if order is None:
            order = self._order[class_id] = OrderedDict()
        order[key] = next(self._clock)

    def touch(self, key: bytes) -> None:
        """Make a known chunk the most recent; an unknown one stays unknown."""
        class_id = self._class_of.get(key)
        if class_id is not None:
            self._order[class_id][key] = next(self._clock)
            self._order[class_id].move_to_end(key)

    def discard(self, key: bytes) -> bool:
        """Forget a chunk; whether it was known."""
        class_id = self._class_of.pop(key, None)
        if class_id is not None:
            del self._order[class_id][key]
        return class_id is not None

    def victims(
        self,
        class_id: int,
        count: int,
        preferred: Callable[[bytes], bool] | None = None,
        kept: Callable[[bytes], bool] | None = None,
        window: int = 64,
    ) -> list[bytes]:
        """The `count` chunks to evict first: among the oldest `count + window` that are not kept those preferred, then the oldest."""
        first: list[bytes] = []
        others: list[bytes] = []
        lacking, looks = count, count + window
        for key in self._order.get(class_id, ()):
            if not lacking or not looks:
                break
            if kept is not None and kept(key):
                continue
            looks -= 1
            if preferred is None or preferred(key):
                first.append(key)
                lacking -= 1
            else:
                others.append(key)
        return first + others[: count - len(first)]

    def class_of(self, key: bytes) -> int | None:
        """A chunk's class; None: it is unknown."""
        return self._class_of.get(key)

    def count(self, class_id: int) -> int:
        """Chunks of a class."""
        return len(self._order.get(class_id, ()))

    def donor(self, class_id: int) -> int | None:
        """The class that should give an extent to this one: that of the oldest chunk, if this class has none or its own
        oldest was used later by more than an eighth of all the uses that the chunks here span."""
        heads = {other: next(iter(order.values())) for other, order in self._order.items() if order}
        own = heads.pop(class_id, None)
        if not heads:
            return None
        donor, last_use = min(heads.items(), key=lambda head: head[1])
        if own is None:
            return donor
        newest = max(next(reversed(order.values())) for order in self._order.values() if order)
        return donor if own - last_use > (newest - last_use) // DONOR_MARGIN else None
