"""The loop between core and policy: events of Plane.poll become commands; one thread owns the plane."""

from __future__ import annotations

import time
from collections import Counter, defaultdict, deque
from dataclasses import dataclass
from typing import assert_never

from spillway import _core
from spillway.daemon.write_through import WriteThrough
from spillway.policy import Recency

# Slots kept free per class so that a store never waits for a recycle: a tenth, bounded (the bounds are arbitrary).
FREE_SHARE, FREE_MIN, FREE_MAX = 10, 4, 64
# All engines together may have this share of the arena waiting for them in leases that nobody uses.
IDLE_LEASE_SHARE, IDLE_LEASE_MIN = 8, 2
# Promotions may fill this share of a class's slots at a time, so that two long prefixes cannot push each other out for ever.
PROMOTION_SHARE = 2
# A flush that has nothing in flight for so long waits for room that does not come.
FLUSH_STALL_SECONDS = 1.0


@dataclass(frozen=True)
class Promotion:
    """A chunk that an engine waits for; after `deadline` (monotonic) nobody does."""

    key: bytes
    class_id: int
    deadline: float


class Loop:
    """What the daemon remembers of chunks, of who gets leases and of promotions; rebuilt from events after a restart."""

    def __init__(self, plane: _core.Plane) -> None:
        self._plane = plane
        self._dram = Recency()
        self._arena_bytes = plane.report().arena_bytes
        self._write_through = WriteThrough(plane)
        self._look_at_room()
        self._promotions: deque[Promotion] = deque()
        # By class. Keys and not a count: requests that share a prefix promote one chunk several times, and it is read once.
        self._reading: defaultdict[int, set[bytes]] = defaultdict(set)
        self._leaving: Counter[int] = Counter()
        self.unwritten_evictions = 0
        self._dram_evictions = 0
        self.engines_attached_ever = len(plane.stats().engines)

    @property
    def evicted(self) -> dict[str, int]:
        """Chunks evicted, by tier."""
        return {"dram": self._dram_evictions, "nvme": self._write_through.evicted}

    def turn(self, timeout_ms: int = 100) -> None:
        """Wait for events, at most `timeout_ms`, and answer them."""
        for event in self._plane.poll(timeout_ms):
            self._take(event)
        self._look_at_room()
        self._promote()
        self._make_room()
        self._pay_leases()
        self._write_through.turn()

    def flush(self, deadline_seconds: float) -> None:
        """Write what is still only in DRAM and make it durable, as far as the time and the room on NVMe go."""
        end = time.monotonic() + deadline_seconds
        left, moved_at = len(self._write_through), time.monotonic()
        while left and self._write_through.is_usable and time.monotonic() < end:
            self.turn(timeout_ms=10)
            now = time.monotonic()
            # A write that is slow is no lack of room; for one that hangs the breaker takes the tier away.
            if len(self._write_through) < left or self._write_through.is_writing:
                left, moved_at = len(self._write_through), now
            elif now - moved_at >= FLUSH_STALL_SECONDS:
                break
        self._plane.flush(max(end - time.monotonic(), 0.0))

    def _take(self, event: _core.Event) -> None:
        match event:
            case _core.Inserted(key=key, class_id=class_id):
                self._dram.add(key, class_id)
                self._write_through.want(key, class_id)
            case _core.Used(key=key):
                self._dram.touch(key)
                self._write_through.note_used(key)
            case _core.Adopted(key=key, class_id=class_id, tiers=tiers):
                self._adopt(key, class_id, tiers)
            case _core.Scanned(key=key, class_id=class_id):
                self._write_through.note_held(key, class_id)
            case _core.Promote(key=key, class_id=class_id, deadline_ms=deadline_ms):
                self._promotions.append(Promotion(key, class_id, time.monotonic() + deadline_ms / 1000))
            case _core.Read(key=key, class_id=class_id, outcome=outcome):
                self._end_read(key, class_id, outcome)
            case _core.Written(key=key, class_id=class_id, outcome=outcome):
                self._write_through.note_written(key, class_id, outcome)
            case _core.Quarantined(key=key, tier=tier):
                if key is not None:
                    self._forget(key, tier)
            case _core.NvmeState(state=state):
                self._write_through.is_usable = state in (_core.NVME_SCANNING, _core.NVME_ACTIVE)
            case _core.EngineAttached():
                self.engines_attached_ever += 1
            case _core.Freed(class_id=class_id, count=count):
                self._leaving[class_id] = max(self._leaving[class_id] - count, 0)
            case (
                _core.LeaseWanted()
                | _core.EngineReady()
                | _core.EngineDead()
                | _core.EngineRefused()
                | _core.ScanDone()
            ):
                # Who leases is asked at each turn; what engines took and missed, a stall's retries among it, is no measure of use.
                pass
            case _:
                assert_never(event)

    def _adopt(self, key: bytes, class_id: int, tiers: int) -> None:
        if tiers & _core.TIER_DRAM:
            self._dram.add(key, class_id)
            self._write_through.want(key, class_id)
        if tiers & _core.TIER_NVME:
            self._write_through.note_held(key, class_id)

    def _forget(self, key: bytes, tier: int) -> None:
        if tier == _core.TIER_NVME:
            self._write_through.note_lost(key)
        else:
            self._dram.discard(key)
            self._write_through.note_left_dram(key)

    def _end_read(self, key: bytes, class_id: int, outcome: int) -> None:
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
            if self._plane.tiers([promotion.key])[0] == _core.TIER_NVME and self._write_through.is_usable:
                full.add(promotion.class_id)
                waiting.append(promotion)
        self._promotions = waiting

    def _try_read(self, promotion: Promotion) -> bool:
        class_id = promotion.class_id
        if len(self._reading[class_id]) * PROMOTION_SHARE >= max(self._room[class_id].dram_total, PROMOTION_SHARE):
            return False
        if not self._plane.read([promotion.key])[0]:
            return False
        self._reading[class_id].add(promotion.key)
        return True

    def _make_room(self) -> None:
        """Evict until what is free, and what is on its way out, covers the reserve, the promotions and the leases owed."""
        wanted = Counter(promotion.class_id for promotion in self._promotions)
        owed: Counter[int] = Counter()
        for account, count in self._lease_debts():
            owed[account.class_id] += count
        for class_id, room in self._look_at_room().items():
            reserve = min(max(room.dram_total // FREE_SHARE, FREE_MIN), FREE_MAX)
            target = max(reserve, min(wanted[class_id] + owed[class_id], room.dram_total // PROMOTION_SHARE))
            short = target - room.dram_free - self._leaving[class_id]
            if short > 0:
                self._evict_dram(class_id, short)

    def _evict_dram(self, class_id: int, count: int) -> None:
        for key in self._dram.victims(class_id, count, self._write_through.holds):
            is_lost = self._write_through.is_configured and not self._write_through.holds(key)
            if self._plane.evict_dram([key])[0]:
                self._dram.discard(key)
                self._write_through.note_left_dram(key)
                self._leaving[class_id] += 1
                self._dram_evictions += 1
                self.unwritten_evictions += is_lost

    def _look_at_room(self) -> dict[int, _core.ClassRoom]:
        self._room = {room.class_id: room for room in self._plane.room()}
        return self._room

    def _lease_debts(self) -> list[tuple[_core.LeaseAccount, int]]:
        """Slots to grant so that each engine's next step finds its share of leases, however much it asked for before."""
        accounts = self._plane.lease_accounts()
        debts = []
        for account in accounts:
            stride = self._room[account.class_id].stride_bytes
            share = self._arena_bytes // stride // (IDLE_LEASE_SHARE * len(accounts))
            debts.append((account, max(min(max(share, IDLE_LEASE_MIN), _core.MAX_GRANTED) - account.idle, 0)))
        return debts

    def _pay_leases(self) -> None:
        self._plane.grant([(account.tag, account.group, count) for account, count in self._lease_debts() if count])
