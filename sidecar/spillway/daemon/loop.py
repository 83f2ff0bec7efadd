"""The loop between core and policy: events of Plane.poll become commands; one thread owns the plane."""

from __future__ import annotations

import time
from collections import deque

from spillway import _core
from spillway.policy import Recency

# Slots kept free per class so that a store never waits for a recycle: a tenth, bounded (the bounds are arbitrary).
FREE_SHARE, FREE_MIN, FREE_MAX = 10, 4, 64
FIRST_GRANT = 16
WRITES_PER_TURN = 64

Event = tuple[int, bytes, int, int, int]


class Loop:
    """What the daemon remembers of chunks, leases owed, promotions and writes; rebuilt from events after a restart."""

    def __init__(self, plane: _core.Plane) -> None:
        self._plane = plane
        self._dram, self._nvme = Recency(), Recency()
        self._owed: dict[tuple[int, int], int] = {}
        self._promotions: deque[tuple[bytes, int, float]] = deque()
        self._writes: deque[tuple[bytes, int]] = deque()
        self._leaving: dict[int, int] = {}
        self.evicted = {"dram": 0, "nvme": 0}

    def turn(self, timeout_ms: int = 100) -> None:
        """Wait for events, at most `timeout_ms`, and answer them."""
        for event in self._plane.poll(timeout_ms):
            self._take(event)
        self._make_room()
        self._pay_leases()
        self._promote()
        self._write_through()

    def _take(self, event: Event) -> None:
        kind, key, a, b, c = event
        if kind == _core.EV_INSERTED:
            self._dram.add(key, a)
            self._writes.append((key, a))
        elif kind == _core.EV_USED:
            self._dram.touch(key)
            self._nvme.touch(key)
        elif kind == _core.EV_ADOPTED:
            self._adopt(key, a, b)
        elif kind == _core.EV_SCANNED:
            self._nvme.add(key, a)
        elif kind == _core.EV_PROMOTE:
            self._promotions.append((key, a, time.monotonic() + c / 1000))
        elif kind == _core.EV_READ and a == _core.OUT_OK:
            self._dram.add(key, b)
        elif kind == _core.EV_WRITTEN and a == _core.OUT_OK:
            self._nvme.add(key, b)
        elif kind == _core.EV_QUARANTINED:
            (self._nvme if b == _core.TIER_NVME else self._dram).discard(key)
        else:
            self._take_lease_event(kind, a, b, c)

    def _take_lease_event(self, kind: int, a: int, b: int, c: int) -> None:
        if kind == _core.EV_ENGINE_READY:
            self._owed.update({(a, group): FIRST_GRANT for group in range(c)})
        elif kind == _core.EV_LEASE_WANTED:
            owed = self._owed.get((a, b), 0) + c
            self._owed[a, b] = min(owed, _core.MAX_GRANTED)
        elif kind == _core.EV_ENGINE_DEAD:
            self._owed = {place: count for place, count in self._owed.items() if place[0] != a}
        elif kind == _core.EV_FREED:
            self._leaving[a] = max(self._leaving.get(a, 0) - b, 0)

    def _adopt(self, key: bytes, class_id: int, tiers: int) -> None:
        if tiers & _core.TIER_DRAM:
            self._dram.add(key, class_id)
        if tiers & _core.TIER_NVME:
            self._nvme.add(key, class_id)
        elif tiers & _core.TIER_DRAM:
            self._writes.append((key, class_id))

    def _make_room(self) -> None:
        for class_id, _stride in self._plane.classes():
            target = min(max(self._plane.total_slots(class_id) // FREE_SHARE, FREE_MIN), FREE_MAX)
            short = target - self._plane.free_slots(class_id) - self._leaving.get(class_id, 0)
            if short > 0:
                self._evict_dram(class_id, short)

    def _evict_dram(self, class_id: int, count: int) -> None:
        for key in self._dram.victims(class_id, count, self._is_on_nvme):
            if self._plane.evict_dram([key]):
                self._dram.discard(key)
                self._leaving[class_id] = self._leaving.get(class_id, 0) + 1
                self.evicted["dram"] += 1

    def _is_on_nvme(self, key: bytes) -> bool:
        return bool(self._plane.tiers([key])[0] & _core.TIER_NVME)

    def _pay_leases(self) -> None:
        for (tag, group), count in list(self._owed.items()):
            left = count - self._plane.grant(tag, group, count)
            if left > 0:
                self._owed[tag, group] = left
            else:
                del self._owed[tag, group]

    def _promote(self) -> None:
        """First come, first served; what waits for a slot past its deadline is dropped (the engine recomputes)."""
        while self._promotions:
            key, _class_id, deadline = self._promotions[0]
            if time.monotonic() < deadline and not self._plane.read([key])[0] and self._waits_for_slot(key):
                return
            self._promotions.popleft()

    def _waits_for_slot(self, key: bytes) -> bool:
        return self._plane.tiers([key])[0] == _core.TIER_NVME and self._plane.free_slots(self._promotions[0][1]) == 0

    def _write_through(self) -> None:
        for _ in range(min(len(self._writes), WRITES_PER_TURN)):
            key, class_id = self._writes.popleft()
            free, total = self._plane.nvme_slots(class_id)
            if total and not free:
                self._evict_nvme(class_id)
            self._plane.write([key])

    def _evict_nvme(self, class_id: int) -> None:
        for key in self._nvme.victims(class_id, 1, lambda _key: False):
            if self._plane.evict_nvme([key]):
                self._nvme.discard(key)
                self.evicted["nvme"] += 1
