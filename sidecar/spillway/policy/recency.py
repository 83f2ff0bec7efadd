"""Least recently used, per slot class. An engine sends a request's keys suffix first, so a suffix leaves before its prefix."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from itertools import islice


class Recency:
    """Keys of one tier in order of use, oldest first, apart for each slot class."""

    def __init__(self) -> None:
        self._order: dict[int, OrderedDict[bytes, None]] = {}
        self._class_of: dict[bytes, int] = {}

    def __len__(self) -> int:
        return len(self._class_of)

    def add(self, key: bytes, class_id: int) -> None:
        """Take a chunk in, or up, as the most recent of its class."""
        self.discard(key)
        self._class_of[key] = class_id
        self._order.setdefault(class_id, OrderedDict())[key] = None

    def touch(self, key: bytes) -> None:
        """Make a known chunk the most recent; an unknown one stays unknown."""
        class_id = self._class_of.get(key)
        if class_id is not None:
            self._order[class_id].move_to_end(key)

    def discard(self, key: bytes) -> None:
        class_id = self._class_of.pop(key, None)
        if class_id is not None:
            del self._order[class_id][key]

    def victims(self, class_id: int, count: int, preferred: Callable[[bytes], bool], window: int = 64) -> list[bytes]:
        """The `count` chunks to evict first: among the oldest `count + window` those preferred, then the oldest."""
        oldest = list(islice(self._order.get(class_id, ()), count + window))
        return sorted(oldest, key=lambda key: not preferred(key))[:count]
