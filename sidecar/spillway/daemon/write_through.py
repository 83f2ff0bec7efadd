"""Every verified chunk goes to NVMe once, as soon as there is room and the device keeps up.

What waits stays evictable: a chunk that is being written cannot leave DRAM, so only so much is in flight that the device is busy.
"""

from __future__ import annotations

import time

from spillway import _core
from spillway.policy import Recency

# In flight at a time: enough for eight threads, little enough that hashing it (on this thread, as it is submitted) stays below
# 100 ms a turn. The figures are arbitrary.
MAX_WRITES, MAX_WRITE_BYTES = 64, 256 << 20
# And no more than this share of a class's DRAM slots, which cannot be evicted meanwhile.
WRITE_SHARE = 4
# An extent changes hands only after all the index was searched for what lies in it, so several do at once ...
MAX_EXTENTS, DONOR_WINDOW = 16, 256
# ... and searching takes at most a tenth of the time.
SEARCH_SHARE = 10
# Where it brought nothing, something in the extent was being read or written.
SEARCH_AGAIN_SECONDS = 1.0


class WriteThrough:
    """What NVMe holds, what it shall get, and what has to leave for it."""

    def __init__(self, plane: _core.Plane) -> None:
        self._plane = plane
        state = plane.report().nvme.state
        self.is_configured = state != _core.NVME_OFF
        self.is_usable = state in (_core.NVME_SCANNING, _core.NVME_ACTIVE)
        self.evicted = 0
        self._held = Recency()
        # No more than DRAM holds; empty without a tier.
        self._waiting = Recency()
        self._writing: dict[bytes, int] = {}
        self._failed: set[bytes] = set()
        self._search_at = 0.0

    def __len__(self) -> int:
        """Chunks that wait."""
        return len(self._waiting)

    @property
    def is_writing(self) -> bool:
        """Whether a write is in flight."""
        return bool(self._writing)

    def holds(self, key: bytes) -> bool:
        """Whether NVMe holds a chunk: the core's word. Events are older than that."""
        return bool(self._plane.tiers([key])[0] & _core.TIER_NVME)

    def want(self, key: bytes, class_id: int) -> None:
        """A chunk is in DRAM."""
        if self.is_configured and not self.holds(key):
            self._waiting.add(key, class_id)

    def note_held(self, key: bytes, class_id: int) -> None:
        """A chunk is said to be on NVMe. It may have left since."""
        if self.holds(key):
            self._held.add(key, class_id)
            self._waiting.discard(key)

    def note_used(self, key: bytes) -> None:
        """A chunk was used."""
        self._held.touch(key)

    def note_written(self, key: bytes, class_id: int, outcome: int) -> None:
        """A write has ended. One that the device failed is tried once more: after the breaker, which lets go of all that is queued."""
        self._writing.pop(key, None)
        if outcome == _core.OUT_OK:
            self._failed.discard(key)
            self.note_held(key, class_id)
        elif (
            outcome == _core.OUT_IO_ERROR and key not in self._failed and self._plane.tiers([key])[0] == _core.TIER_DRAM
        ):
            self._failed.add(key)
            self._waiting.add(key, class_id)

    def note_lost(self, key: bytes) -> None:
        """NVMe holds a chunk no longer."""
        self._held.discard(key)

    def note_left_dram(self, key: bytes) -> None:
        """A chunk that has left DRAM cannot be written."""
        self._waiting.discard(key)
        self._failed.discard(key)

    def turn(self) -> None:
        """Submit what fits, oldest first within a class; one class without room does not hold up another."""
        if not self.is_usable or not self._waiting:
            return
        for room in self._plane.room():
            if self._waiting.oldest(room.class_id) is not None:
                self._write_class(room)

    def _write_class(self, room: _core.ClassRoom) -> None:
        class_id, stride_bytes = room.class_id, room.stride_bytes
        share = max(room.dram_total // WRITE_SHARE, 1)
        free = room.nvme_free
        own = sum(1 for other in self._writing.values() if other == stride_bytes)
        while own < share and self._has_budget(stride_bytes) and (key := self._waiting.oldest(class_id)) is not None:
            free = free or self._make_room(class_id, stride_bytes)
            if not free:
                return
            self._waiting.discard(key)
            if self._plane.write([key])[0]:
                self._writing[key] = stride_bytes
                own, free = own + 1, free - 1
            elif self._plane.tiers([key])[0] == _core.TIER_DRAM:
                # Not its fault: the tier went away, or what looked free was not.
                self._waiting.add(key, class_id)
                return

    def _has_budget(self, stride_bytes: int) -> bool:
        in_flight = sum(self._writing.values())
        return not self._writing or (len(self._writing) < MAX_WRITES and in_flight + stride_bytes <= MAX_WRITE_BYTES)

    def _make_room(self, class_id: int, stride_bytes: int) -> int:
        """Evict; the number of slots that are free for the class then."""
        donor = self._held.donor(class_id)
        if (
            donor is not None
            and time.monotonic() >= self._search_at
            and (taken := self._take(donor, class_id, stride_bytes))
        ):
            return taken
        # What is being read or written stays, so a few of the oldest are tried.
        return next((1 for key in self._held.victims(class_id, 8, lambda _key: False) if self._evict([key])), 0)

    def _take(self, donor: int, class_id: int, stride_bytes: int) -> int:
        """Empty extents of another class, as many as what waits needs; the number of slots that this one gets by it."""
        began = time.monotonic()
        slots_per_extent = _core.EXTENT_BYTES // stride_bytes
        extents = min(-(-self._waiting.count(class_id) // slots_per_extent), MAX_EXTENTS)
        oldest = self._held.victims(donor, DONOR_WINDOW, lambda _key: False, window=0)
        # The others in an extent may be younger, but while one stays the extent cannot change its class.
        self._evict(self._plane.nvme_neighbours(oldest, extents))
        taken = next(room.nvme_free for room in self._plane.room() if room.class_id == class_id)
        now = time.monotonic()
        self._search_at = now + ((now - began) * SEARCH_SHARE if taken else SEARCH_AGAIN_SECONDS)
        return taken

    def _evict(self, keys: list[bytes]) -> int:
        """The number evicted. What the core refuses and does not hold either is forgotten: it left unseen."""
        evicted = 0
        for key in keys:
            if self._plane.evict_nvme([key])[0]:
                evicted += 1
            elif self.holds(key):
                continue
            self._held.discard(key)
        self.evicted += evicted
        return evicted
