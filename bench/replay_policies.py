"""The policies that the product's orders are judged by, each from its paper: LRU, ARC (FAST '03), S3-FIFO (SOSP '23) and Belady's optimum.

Online ones are given a request's chunks suffix first, so that a suffix leaves before its prefix; what they would keep otherwise is no hit.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import cache
from typing import Protocol

from spillway.policy import EvictionOrder
from spillway.policy.planner import EVICTION

KEY_BYTES = 16


class Cache(Protocol):
    """A tier of a fixed number of chunks."""

    def has(self, chunk: int) -> bool: ...
    def request(self, chain: Sequence[int], hits: int) -> None:
        """A request whose first `hits` chunks were there, and which puts all the others."""


class Lru:
    """Least recently used."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._order: OrderedDict[int, None] = OrderedDict()

    def has(self, chunk: int) -> bool:
        return chunk in self._order

    def request(self, chain: Sequence[int], hits: int) -> None:
        for chunk in reversed(chain):
            self._order[chunk] = None
            self._order.move_to_end(chunk)
            if len(self._order) > self._size:
                self._order.popitem(last=False)


class Arc:
    """Adaptive replacement: used once and used again, each with a ghost list, and a border that ghosts move."""

    def __init__(self, size: int) -> None:
        self._size, self._target = size, 0.0
        self._once: OrderedDict[int, None] = OrderedDict()
        self._again: OrderedDict[int, None] = OrderedDict()
        self._once_ghosts: OrderedDict[int, None] = OrderedDict()
        self._again_ghosts: OrderedDict[int, None] = OrderedDict()

    def has(self, chunk: int) -> bool:
        return chunk in self._once or chunk in self._again

    def request(self, chain: Sequence[int], hits: int) -> None:
        for chunk in reversed(chain):
            self._use(chunk)

    def _use(self, chunk: int) -> None:
        once, again, once_ghosts, again_ghosts = self._once, self._again, self._once_ghosts, self._again_ghosts
        if chunk in again:
            again.move_to_end(chunk)
            return
        if chunk in once:
            del once[chunk]
        elif chunk in once_ghosts:
            self._target = min(self._size, self._target + max(len(again_ghosts) / len(once_ghosts), 1))
            self._make_room(from_again=False)
            del once_ghosts[chunk]
        elif chunk in again_ghosts:
            self._target = max(0, self._target - max(len(once_ghosts) / len(again_ghosts), 1))
            self._make_room(from_again=True)
            del again_ghosts[chunk]
        else:
            self._put_new(chunk)
            return
        again[chunk] = None

    def _put_new(self, chunk: int) -> None:
        known_once = len(self._once) + len(self._once_ghosts)
        known = known_once + len(self._again) + len(self._again_ghosts)
        if known_once >= self._size:
            if len(self._once) < self._size:
                self._once_ghosts.popitem(last=False)
                self._make_room(from_again=False)
            else:
                self._once.popitem(last=False)
        elif known >= self._size:
            if known >= 2 * self._size:
                self._again_ghosts.popitem(last=False)
            self._make_room(from_again=False)
        self._once[chunk] = None

    def _make_room(self, *, from_again: bool) -> None:
        if len(self._once) + len(self._again) < self._size:
            return
        beyond = len(self._once) > self._target or (from_again and len(self._once) == self._target)
        if self._once and (beyond or not self._again):
            chunk, _ = self._once.popitem(last=False)
            self._once_ghosts[chunk] = None
        else:
            chunk, _ = self._again.popitem(last=False)
            self._again_ghosts[chunk] = None


class S3Fifo:
    """A small queue of a tenth for what is new, a main one, and a ghost queue as long as that."""

    def __init__(self, size: int) -> None:
        self._size, self._small_size = size, max(size // 10, 1)
        self._small: OrderedDict[int, int] = OrderedDict()
        self._main: OrderedDict[int, int] = OrderedDict()
        self._ghosts: OrderedDict[int, None] = OrderedDict()

    def has(self, chunk: int) -> bool:
        return chunk in self._small or chunk in self._main

    def request(self, chain: Sequence[int], hits: int) -> None:
        for chunk in reversed(chain):
            self._use(chunk)

    def _use(self, chunk: int) -> None:
        queue = self._small if chunk in self._small else self._main
        if chunk in queue:
            queue[chunk] = min(queue[chunk] + 1, 3)
            return
        while len(self._small) + len(self._main) >= self._size:
            if self._small and (len(self._small) >= self._small_size or not self._main):
                self._evict_small()
            else:
                self._evict_main()
        if chunk in self._ghosts:
            del self._ghosts[chunk]
            self._main[chunk] = 0
        else:
            self._small[chunk] = 0

    def _evict_small(self) -> None:
        chunk, uses = self._small.popitem(last=False)
        if uses > 1:
            self._main[chunk] = 0
            return
        self._ghosts[chunk] = None
        if len(self._ghosts) > self._size - self._small_size:
            self._ghosts.popitem(last=False)

    def _evict_main(self) -> None:
        while True:
            chunk, uses = self._main.popitem(last=False)
            if not uses:
                return
            self._main[chunk] = uses - 1


class Belady:
    """The optimum: what is used latest leaves first, what comes in among it. A prefix is never used later than its suffix."""

    def __init__(self, size: int, requests: Sequence[Sequence[int]]) -> None:
        self._size, self._number = size, 0
        self._next_uses = _next_uses(requests)
        self._held: dict[int, int] = {}
        self._latest: list[tuple[int, int]] = []

    def has(self, chunk: int) -> bool:
        return chunk in self._held

    def request(self, chain: Sequence[int], hits: int) -> None:
        uses = self._next_uses[self._number]
        self._number += 1
        for chunk, use in zip(chain, uses, strict=True):
            self._held[chunk] = use
            heapq.heappush(self._latest, (-use, chunk))
        while len(self._held) > self._size:
            use, chunk = heapq.heappop(self._latest)
            if self._held.get(chunk) == -use:
                del self._held[chunk]


def _next_uses(requests: Sequence[Sequence[int]]) -> list[list[int]]:
    """For each request and chunk, when it is used next; in a request a prefix before its suffix, as without it the suffix is no hit."""
    at, never = sum(map(len, requests)), 1 << 62
    seen: dict[int, int] = {}
    found: list[list[int]] = []
    for chain in reversed(requests):
        uses = []
        for chunk in reversed(chain):
            at -= 1
            uses.append(seen.get(chunk, never))
            seen[chunk] = at
        uses.reverse()
        found.append(uses)
    found.reverse()
    return found


class Ordered:
    """One of the product's orders, told what the planner is: what is put, prefix first, and as the request ends its uses, suffix first."""

    def __init__(self, order: EvictionOrder, size: int) -> None:
        self._order, self._size = order, size

    def has(self, chunk: int) -> bool:
        return make_key(chunk) in self._order

    def request(self, chain: Sequence[int], hits: int) -> None:
        keys = [make_key(chunk) for chunk in chain]
        order = self._order
        for key in keys[hits:]:
            if key not in order:
                order.add(key, 0)
        for key in reversed(keys):
            order.touch(key)
        # Until then a request's own chunks are held by its tickets and leases.
        if (beyond := len(order) - self._size) > 0:
            for key in order.victims(0, beyond):
                order.discard(key)


@cache
def make_key(chunk: int) -> bytes:
    """A key of the product, mixed as a hash would be."""
    return (chunk * 0x9E3779B97F4A7C15F39CC0605CEDC835 + 0xD1342543DE82EF95 & (1 << 128) - 1).to_bytes(KEY_BYTES, "big")


REFERENCES: dict[str, Callable[[int, Sequence[Sequence[int]]], Cache]] = {
    "LRU": lambda size, _: Lru(size),
    "ARC": lambda size, _: Arc(size),
    "S3-FIFO": lambda size, _: S3Fifo(size),
    "Belady": Belady,
}
ORDERS: dict[str, Callable[[int, Sequence[Sequence[int]]], Cache]] = {
    tier: lambda size, _: Ordered(EVICTION(), size) for tier in ("DRAM", "NVMe")
}
