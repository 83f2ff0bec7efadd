"""The loop between core and policy: events of Plane.poll become commands; one thread owns the plane."""

from __future__ import annotations

import time
from collections import Counter, defaultdict, deque
from dataclasses import dataclass

from spillway import _core
from spillway.policy import Recency

# Slots kept free per class so that a store never waits for a recycle: a tenth, bounded (the bounds are arbitrary).
FREE_SHARE, FREE_MIN, FREE_MAX = 10, 4, 64
# Enough for the chunks of a first step; from then on an engine asks for what it takes.
FIRST_GRANT = 16
WRITES_PER_TURN = 64
# Promotions may fill this share of a class's slots at a time, so that two long prefixes cannot push each other out for ever.
PROMOTION_SHARE = 2
# A flush that writes nothing for so long waits for room that does not come.
FLUSH_STALL_SECONDS = 1.0

Event = tuple[int, bytes, int, int, int]


@dataclass(frozen=True)
class Promotion:
    """A chunk that an engine waits for; after `deadline` (monotonic) nobody does."""

    key: bytes
    class_id: int
    deadline: float


class Loop:
    """What the daemon remembers of chunks, leases owed, promotions and writes; rebuilt from events after a restart."""

    def __init__(self, plane: _core.Plane) -> None:
        self._plane = plane
        self._dram, self._nvme = Recency(), Recency()
        self._owed: dict[tuple[int, int], int] = {}
        self._promotions: deque[Promotion] = deque()
        # By class. Keys and not a count: requests that share a prefix promote one chunk several times, and it is read once.
        self._reading: defaultdict[int, set[bytes]] = defaultdict(set)
        # What DRAM holds and NVMe shall get; without a tier nothing is kept here, with one no more than DRAM holds.
        self._unwritten = Recency()
        self._leaving: Counter[int] = Counter()
        state = plane.report()["nvme"]["state"]
        self._writes_through = state != _core.NVME_OFF
        self._nvme_usable = state in (_core.NVME_SCANNING, _core.NVME_ACTIVE)
        self.evicted = {"dram": 0, "nvme": 0}
        self.unwritten_evictions = 0
        self.engines_attached_ever = len(plane.stats()["engines"])

    def turn(self, timeout_ms: int = 100) -> None:
        """Wait for events, at most `timeout_ms`, and answer them."""
        for event in self._plane.poll(timeout_ms):
            self._take(event)
        self._promote()
        self._make_room()
        self._pay_leases()
        self._write_through()

    def flush(self, deadline_seconds: float) -> None:
        """Write what is still only in DRAM and make it durable, as far as the time and the room on NVMe go."""
        end = time.monotonic() + deadline_seconds
        left, moved_at = len(self._unwritten), time.monotonic()
        while left and self._nvme_usable and time.monotonic() < min(end, moved_at + FLUSH_STALL_SECONDS):
            self.turn(timeout_ms=10)
            if len(self._unwritten) < left:
                left, moved_at = len(self._unwritten), time.monotonic()
        self._plane.flush(max(end - time.monotonic(), 0.0))

    def _take(self, event: Event) -> None:
        kind, key, a, b, c = event
        if kind == _core.EV_INSERTED:
            self._dram.add(key, a)
            self._want_written(key, a)
        elif kind == _core.EV_USED:
            self._dram.touch(key)
            self._nvme.touch(key)
        elif kind == _core.EV_ADOPTED:
            self._adopt(key, a, b)
        elif kind == _core.EV_SCANNED:
            self._nvme.add(key, a)
        elif kind == _core.EV_PROMOTE:
            self._promotions.append(Promotion(key, a, time.monotonic() + c / 1000))
        elif kind == _core.EV_READ:
            self._end_read(key, a, b)
        elif kind == _core.EV_WRITTEN and a == _core.OUT_OK:
            self._nvme.add(key, b)
        elif kind == _core.EV_QUARANTINED:
            self._forget(key, b)
        elif kind == _core.EV_NVME_STATE:
            self._nvme_usable = a in (_core.NVME_SCANNING, _core.NVME_ACTIVE)
        else:
            self._take_lease_event(kind, a, b, c)

    def _take_lease_event(self, kind: int, a: int, b: int, c: int) -> None:
        if kind == _core.EV_ENGINE_ATTACHED:
            self.engines_attached_ever += 1
        elif kind == _core.EV_ENGINE_READY:
            self._owed.update({(a, group): FIRST_GRANT for group in range(c)})
        elif kind == _core.EV_LEASE_WANTED:
            self._owed[a, b] = min(self._owed.get((a, b), 0) + c, _core.MAX_GRANTED)
        elif kind == _core.EV_ENGINE_DEAD:
            self._owed = {place: count for place, count in self._owed.items() if place[0] != a}
        elif kind == _core.EV_FREED:
            self._leaving[a] = max(self._leaving[a] - b, 0)

    def _adopt(self, key: bytes, class_id: int, tiers: int) -> None:
        if tiers & _core.TIER_DRAM:
            self._dram.add(key, class_id)
        if tiers & _core.TIER_NVME:
            self._nvme.add(key, class_id)
        elif tiers & _core.TIER_DRAM:
            self._want_written(key, class_id)

    def _want_written(self, key: bytes, class_id: int) -> None:
        if self._writes_through:
            self._unwritten.add(key, class_id)

    def _forget(self, key: bytes, tier: int) -> None:
        if tier == _core.TIER_NVME:
            self._nvme.discard(key)
        else:
            self._dram.discard(key)
            self._unwritten.discard(key)

    def _end_read(self, key: bytes, outcome: int, class_id: int) -> None:
        self._reading[class_id].discard(key)
        if outcome == _core.OUT_OK:
            self._dram.add(key, class_id)

    def _promote(self) -> None:
        """First come, first served within a class; one class without slots does not hold up another."""
        waiting: deque[Promotion] = deque()
        full: set[int] = set()
        for promotion in self._promotions:
            if time.monotonic() >= promotion.deadline:
                continue
            if promotion.class_id not in full and self._try_read(promotion):
                continue
            if self._plane.tiers([promotion.key])[0] == _core.TIER_NVME and self._nvme_usable:
                full.add(promotion.class_id)
                waiting.append(promotion)
        self._promotions = waiting

    def _try_read(self, promotion: Promotion) -> bool:
        class_id = promotion.class_id
        if len(self._reading[class_id]) * PROMOTION_SHARE >= max(self._plane.total_slots(class_id), PROMOTION_SHARE):
            return False
        if not self._plane.read([promotion.key])[0]:
            return False
        self._reading[class_id].add(promotion.key)
        return True

    def _make_room(self) -> None:
        """Evict until what is free, and what is on its way out, covers the reserve, the promotions and the leases owed."""
        wanted = Counter(promotion.class_id for promotion in self._promotions)
        owed = sum(self._owed.values())
        for class_id, _stride in self._plane.classes():
            reserve = min(max(self._plane.total_slots(class_id) // FREE_SHARE, FREE_MIN), FREE_MAX)
            target = max(reserve, min(wanted[class_id] + owed, self._plane.total_slots(class_id) // PROMOTION_SHARE))
            short = target - self._plane.free_slots(class_id) - self._leaving[class_id]
            if short > 0:
                self._evict_dram(class_id, short)

    def _evict_dram(self, class_id: int, count: int) -> None:
        for key in self._dram.victims(class_id, count, self._is_on_nvme):
            if self._plane.evict_dram([key]):
                self._dram.discard(key)
                self._leaving[class_id] += 1
                self.evicted["dram"] += 1
                self.unwritten_evictions += self._unwritten.discard(key)

    def _is_on_nvme(self, key: bytes) -> bool:
        return bool(self._plane.tiers([key])[0] & _core.TIER_NVME)

    def _pay_leases(self) -> None:
        for (tag, group), count in list(self._owed.items()):
            left = count - self._plane.grant(tag, group, count)
            if left > 0:
                self._owed[tag, group] = left
            else:
                del self._owed[tag, group]

    def _write_through(self) -> None:
        """Write everything verified once, first in, first out within a class; one class without room does not hold up
        another. While the tier is away what waits keeps waiting."""
        if not self._nvme_usable or not self._unwritten:
            return
        for class_id, _stride in self._plane.classes():
            free = self._plane.nvme_slots(class_id)[0]
            for _ in range(WRITES_PER_TURN):
                key = self._unwritten.oldest(class_id)
                free = free or (self._make_nvme_room(class_id) if key else 0)
                if key is None or not free:
                    break
                self._unwritten.discard(key)
                free -= self._plane.write([key])[0]

    def _make_nvme_room(self, class_id: int) -> int:
        """Evict; the number of slots that are free for the class then."""
        donor = self._nvme.donor(class_id)
        if donor is not None:
            # The others in its extent may be younger, but while one stays the extent cannot change its class.
            self._evict_nvme(self._plane.nvme_neighbours([donor]))
            if free := self._plane.nvme_slots(class_id)[0]:
                return free
        # What is being read or written stays, so a few of the oldest are tried.
        for key in self._nvme.victims(class_id, 8, lambda _key: False):
            if self._evict_nvme([key]):
                return self._plane.nvme_slots(class_id)[0]
        return 0

    def _evict_nvme(self, keys: list[bytes]) -> int:
        """The number evicted."""
        evicted = [key for key in keys if self._plane.evict_nvme([key])]
        for key in evicted:
            self._nvme.discard(key)
        self.evicted["nvme"] += len(evicted)
        return len(evicted)
