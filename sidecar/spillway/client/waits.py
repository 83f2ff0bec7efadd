"""What all waiting requests share: room in the arena, tickets over what has come, and the estimate of when waiting pays."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from spillway import _core
from spillway.client.gate import Gate
from spillway.client.ledger import Ledger
from spillway.client.link import GroupGeometry, Link
from spillway.client.records import Group
from spillway.client.wait import PENDING, Wait, Wanted

PENDING_SECONDS: Final = 0.05
# A wait that no estimate bounds; the engine has not prefilled enough yet to know better.
UNKNOWN_WAIT_SECONDS: Final = 5.0
RESERVED_RATIO: Final = 0.5
# Those that wait keep what has come with one half of the tickets; the other half is for those that load.
WAITING_TICKETS: Final = _core.MAX_TICKETS // 2


class Waits:
    """Begins, watches and ends each request's wait."""

    def __init__(
        self,
        link: Link,
        ledger: Ledger,
        gate: Gate,
        io_deadline_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._link = link
        self._ledger = ledger
        self._gate = gate
        self._io_deadline_seconds = io_deadline_seconds
        self._clock = clock
        self._reserved_bytes = 0
        self._tickets = 0

    def begin(
        self, attachment: _core.Attachment, wanted: list[Wanted], groups: list[Group], total_tokens: int
    ) -> Wait | None:
        """Ask for what lies on NVMe, as far as it fits and is worth it; None: there is nothing to wait for."""
        geometry = self._link.geometry
        if geometry is None:
            return None
        wanted = self._fitting(attachment, wanted, geometry)
        on_nvme = [entry for entry in wanted if entry.state == _core.NVME]
        promote_bytes = sum(geometry[entry.group].payload_bytes for entry in on_nvme)
        tokens = sum(groups[entry.group].chunk_tokens for entry in on_nvme if entry.group == on_nvme[0].group)
        if on_nvme:
            load_bytes = sum(geometry[entry.group].payload_bytes for entry in wanted)
            if not attachment.sidecar_alive():
                return None
            if not self._gate.worth_it(
                tokens=tokens, context_tokens=total_tokens, load_bytes=load_bytes, promote_bytes=promote_bytes
            ):
                attachment.count(_core.COUNT_GATE_DECLINED, 1)
                return None
            wanted = self._promote(attachment, wanted, on_nvme)
        now = self._clock()
        recompute = self._gate.recompute_seconds(tokens, total_tokens)
        is_pending = any(entry.state == PENDING for entry in wanted)
        wait = Wait(
            wanted,
            started=now,
            deadline=now + (UNKNOWN_WAIT_SECONDS if recompute is None or not on_nvme else recompute),
            stall_deadline=now + (self._io_deadline_seconds if on_nvme else PENDING_SECONDS),
            pending_deadline=now + PENDING_SECONDS if is_pending else float("inf"),
            reserved_bytes=sum(geometry[entry.group].stride_bytes for entry in wanted),
            promoted_bytes=promote_bytes,
            word=attachment.progress(),
        )
        if not wait.missing:
            return None
        self._reserved_bytes += wait.reserved_bytes
        self._pin(wait, attachment, {entry.key for entry in wanted if entry.state == _core.HIT})
        return wait

    def _fitting(
        self, attachment: _core.Attachment, wanted: list[Wanted], geometry: tuple[GroupGeometry, ...]
    ) -> list[Wanted]:
        """What of `wanted` may be reserved: at most half of the arena for all waits together, first come first served."""
        room = RESERVED_RATIO * attachment.arena_bytes() - self._reserved_bytes
        fitting: list[Wanted] = []
        for entry in sorted(wanted, key=lambda entry: entry.start_token):
            room -= geometry[entry.group].stride_bytes
            if room < 0:
                break
            fitting.append(entry)
        return fitting

    def _promote(self, attachment: _core.Attachment, wanted: list[Wanted], on_nvme: list[Wanted]) -> list[Wanted]:
        deadline_ms = max(1, int(self._io_deadline_seconds * 1000))
        groups = bytes(entry.group for entry in on_nvme)
        sent = attachment.promote(b"".join(entry.key for entry in on_nvme), groups, deadline_ms)
        if sent == len(on_nvme):
            return wanted
        attachment.count(_core.COUNT_RING_FULL, 1)
        bound = min(entry.start_token for entry in on_nvme[sent:])
        return [entry for entry in wanted if entry.start_token < bound]

    def goes_on(self, wait: Wait, attachment: _core.Attachment) -> bool:
        """Look at the wait again; False: it has come to its end, and the caller ends it."""
        now, word = self._clock(), attachment.progress()
        if wait.unchanged(word, now) and attachment.sidecar_alive():
            return True
        wait.word = word
        answers = attachment.lookup(b"".join(entry.key for entry in wait.wanted))
        hits = {entry.key for entry, answer in zip(wait.wanted, answers, strict=True) if answer == _core.HIT}
        pending_counts = now < wait.pending_deadline
        gone = {
            entry.key
            for entry, answer in zip(wait.wanted, answers, strict=True)
            if answer == _core.MISS and not (pending_counts and self._ledger.holds(entry.key))
        }
        if wait.missing & hits:
            wait.stall_deadline = now + self._io_deadline_seconds
        wait.missing -= hits
        if gone:
            wait.cut(gone)
        if not pending_counts:
            wait.pending_deadline = float("inf")
        if not wait.missing:
            self._gate.promotion.add(wait.promoted_bytes, now - wait.started)
        if not wait.missing or now >= min(wait.deadline, wait.stall_deadline) or not attachment.sidecar_alive():
            return False
        self._pin(wait, attachment, hits)
        return True

    def _pin(self, wait: Wait, attachment: _core.Attachment, hits: set[bytes]) -> None:
        """Keep what has come while the rest comes: one ticket over all hits, in place of the one before."""
        keys = [entry.key for entry in wait.wanted if entry.key in hits][: _core.MAX_TICKET_SLOTS]
        if not keys or (wait.ticket is None and self._tickets >= WAITING_TICKETS):
            return
        taken = attachment.take_ticket(b"".join(keys))
        if taken is not None:
            self._unpin(wait, attachment)
            wait.ticket = taken[0]
            self._tickets += 1

    def _unpin(self, wait: Wait, attachment: _core.Attachment) -> None:
        if wait.ticket is not None:
            attachment.cancel_ticket(wait.ticket)
            wait.ticket = None
            self._tickets -= 1

    def end(self, wait: Wait) -> None:
        """What it waited for is its own no longer; this step's lookups protect the hits until they are claimed."""
        attachment = self._link.attachment()
        if attachment is not None:
            self._unpin(wait, attachment)
        self._reserved_bytes -= wait.reserved_bytes
