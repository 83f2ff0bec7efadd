"""The loop between core and policy: what the plane tells goes to the planner, and the planner's moves go to the plane.

One thread owns the plane. Nothing is decided here; each verb is one call per turn.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import assert_never

from spillway import _core
from spillway.policy import Donation, Moves, Planner

# A flush that has nothing in flight for so long waits for room that does not come.
FLUSH_STALL_SECONDS = 1.0


class Loop:
    """A plane and the planner of its moves, which is rebuilt from events after a restart."""

    def __init__(self, plane: _core.Plane, max_records: int | None = None) -> None:
        self._plane = plane
        report = plane.report()
        self._planner = Planner(
            report.arena_bytes,
            _core.MAX_GRANTED,
            nvme_configured=report.nvme.state != _core.NVME_OFF,
            nvme_usable=_is_usable(report.nvme.state),
            max_records=max_records,
        )
        self._donated = False
        self.engines_attached_ever = len(plane.stats().engines)

    @property
    def evicted(self) -> dict[str, int]:
        """Chunks evicted, by tier."""
        return {"dram": self._planner.dram_evictions, "nvme": self._planner.nvme_evictions}

    @property
    def unwritten_evictions(self) -> int:
        """Chunks that left DRAM before NVMe had them; 0 without a tier."""
        return self._planner.unwritten_evictions

    def turn(self, timeout_ms: int = 100) -> None:
        """Wait for events, at most `timeout_ms`, and answer them."""
        # What a donation made room for is written at once, and what lies in its way leaves at once.
        self._tell(self._plane.poll(0 if self._donated else timeout_ms))
        rooms, accounts = self._plane.room(), self._plane.lease_accounts()
        vacated = self._plane.vacated_chunks() if any(room.dram_to_come for room in rooms) else []
        self._carry_out(self._planner.plan(rooms, accounts, time.monotonic(), vacated))

    def flush(self, deadline_seconds: float) -> None:
        """Write what is still only in DRAM and make it durable, as far as the time and the room on NVMe go."""
        end = time.monotonic() + deadline_seconds
        left, moved_at = self._planner.unwritten, time.monotonic()
        while left and self._planner.nvme_usable and time.monotonic() < end:
            self.turn(timeout_ms=10)
            now = time.monotonic()
            # A write that is slow is no lack of room; for one that hangs the breaker takes the tier away.
            if self._planner.unwritten < left or self._planner.is_writing:
                left, moved_at = self._planner.unwritten, now
            elif now - moved_at >= FLUSH_STALL_SECONDS:
                break
        self._plane.flush(max(end - time.monotonic(), 0.0))

    def _tell(self, events: Sequence[_core.Event]) -> None:
        """Events are older than what the plane knows now, so each chunk's tiers are asked for anew, in one call."""
        keys = [event.key for event in events if isinstance(event, _KEYED)]
        lies = iter(self._plane.tiers(keys) if keys else b"")
        for event in events:
            # What comes for every chunk first: a case that does not match costs as much as one that does.
            match event:
                case _core.Inserted(key=key, class_id=class_id):
                    self._planner.found(key, class_id, next(lies))
                case _core.Written(key=key, class_id=class_id, outcome=outcome):
                    self._planner.write_ended(key, class_id, next(lies), outcome == _core.OUT_IO_ERROR)
                case _core.Used(key=key):
                    self._planner.used(key)
                case _core.Read(key=key, class_id=class_id):
                    self._planner.read_ended(key, class_id, next(lies))
                case _core.Scanned(key=key, class_id=class_id) | _core.Adopted(key=key, class_id=class_id):
                    self._planner.found(key, class_id, next(lies))
                case _core.Promote(key=key, class_id=class_id, deadline_ms=deadline_ms):
                    self._planner.promotion_wanted(key, class_id, time.monotonic() + deadline_ms / 1000)
                case _core.Quarantined(key=key):
                    if key is not None:
                        self._planner.lies(key, self._plane.tiers([key])[0])
                case _core.NvmeState(state=state):
                    self._planner.nvme_usable = _is_usable(state)
                case _core.Freed(class_id=class_id, count=count):
                    self._planner.freed(class_id, count)
                case _core.EngineAttached():
                    self.engines_attached_ever += 1
                case _core.LeaseWanted(tag=tag, group=group):
                    self._planner.leases_wanted(tag, group, time.monotonic())
                case _core.EngineReady() | _core.EngineDead() | _core.EngineRefused() | _core.ScanDone():
                    # Who can be granted to, and what it has, is asked at each turn.
                    pass
                case _:
                    assert_never(event)

    def _carry_out(self, moves: Moves) -> None:
        self._donated = False
        if moves.promote:
            self._refused(self._planner.read_refused, moves.promote, self._plane.read(moves.promote))
        if moves.recall:
            self._plane.recall(moves.recall)
        if moves.evict:
            answers = self._plane.evict_dram(moves.evict, spare_pinned=True)
            self._planner.evicted(_done(moves.evict, answers))
            self._refused(self._planner.eviction_refused, moves.evict, answers)
        if moves.grant:
            self._plane.grant(moves.grant)
        for donation in moves.vacate:
            begun = self._plane.vacate_dram(donation.oldest, donation.to_class, donation.extents)
            self._planner.vacating(donation.to_class, begun, time.monotonic())
            self._donated = self._donated or begun > 0
        for donation in moves.donate:
            self._donate(donation)
        if moves.drop:
            self._drop(moves.drop)
        if moves.write:
            self._refused(self._planner.write_refused, moves.write, self._plane.write(moves.write))

    def _donate(self, donation: Donation) -> None:
        began = time.monotonic()
        dropped = self._drop(self._plane.nvme_neighbours(donation.oldest, donation.extents))
        self._planner.searched(began, time.monotonic(), dropped)
        self._donated = self._donated or dropped > 0

    def _drop(self, keys: list[bytes]) -> int:
        answers = self._plane.evict_nvme(keys)
        self._planner.dropped(_done(keys, answers))
        self._refused(self._planner.lies, keys, answers)
        return sum(answers)

    def _refused(self, tell: Callable[[bytes, int], None], keys: Sequence[bytes], answers: Sequence[bool]) -> None:
        """Tell the planner where each chunk lies that the core refused to move."""
        if all(answers):
            return
        refused = [key for key, done in zip(keys, answers, strict=True) if not done]
        if refused:
            for key, tiers in zip(refused, self._plane.tiers(refused), strict=True):
                tell(key, tiers)


def _done(keys: list[bytes], answers: list[bool]) -> list[bytes]:
    """The chunks that the core moved: mostly all of them."""
    return keys if all(answers) else [key for key, done in zip(keys, answers, strict=True) if done]


_KEYED = (_core.Inserted, _core.Scanned, _core.Adopted, _core.Read, _core.Written)


def _is_usable(nvme_state: int) -> bool:
    return nvme_state in (_core.NVME_SCANNING, _core.NVME_ACTIVE)
