"""The loading half of a session: look up, wait for what is on its way, pin what is loaded.

Slots are read only between a lookup and the end of the same step, or under a ticket. A hit counts when it is loaded, not when it is
looked up: a request that waits is looked up again and again, and what it finds may be gone or of no use when its turn comes.
"""

from __future__ import annotations

import enum
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from spillway import _core
from spillway.client.gate import Gate
from spillway.client.keyspace import Keyspace
from spillway.client.ledger import Ledger
from spillway.client.link import Link
from spillway.client.records import Group, LoadTokens, Verdict
from spillway.client.wait import PENDING, Wait, select
from spillway.client.waits import UNKNOWN_WAIT_SECONDS, Waits

MAX_USED_KEYS: Final = 1024


class LoadPhase(enum.Enum):
    """Where a request stands between its first lookup and its load. Once it is scheduled, it begins anew."""

    LOOKING = "looking"  # what is not a hit may be worth waiting for
    WAITING = "waiting"  # for the chunks of `wait`
    SETTLED = "settled"  # it has waited, or it is not worth it: what is no hit is a miss
    QUEUED = "queued"  # settled, but no ticket was left for its hits; until `queued_until` it asks again
    DENIED = "denied"  # it loads nothing until it ends


@dataclass
class _Load:
    phase: LoadPhase = LoadPhase.LOOKING
    wait: Wait | None = None  # WAITING alone
    queued_until: float = 0.0  # QUEUED alone
    hits: dict[bytes, None] = field(default_factory=dict)  # of the newest lookup, in order
    word: int = 0  # the progress word before the newest lookup
    looked_up_keys: int = 0  # by the newest lookup
    looked_up_tokens: int = 0  # by the newest lookup
    claimed_keys: int = 0  # since it was scheduled last
    is_used: bool = False  # its hits were reported as used since it was scheduled last
    promoted: set[bytes] = field(default_factory=set)
    tokens: LoadTokens | None = None  # of the load under way


class Loads:
    """`gate` and `io_deadline_seconds` bound what a request waits for; `ledger` knows what this engine is storing."""

    def __init__(
        self,
        link: Link,
        keyspace: Keyspace,
        ledger: Ledger,
        gate: Gate,
        io_deadline_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._link = link
        self._keyspace = keyspace
        self._ledger = ledger
        self._waits = Waits(link, ledger, gate, io_deadline_seconds, clock)
        self._clock = clock
        self._loads: dict[str, _Load] = {}
        self._unsent_tickets: list[tuple[str, int]] = []
        self._unused: dict[str, _Load] = {}  # hit in this step, and not loaded yet

    # Before the engine gives the request its blocks

    def resolve(self, request_id: str, groups: list[Group], computed_tokens: int, total_tokens: int) -> Verdict:
        """Look a request's chunks past computed_tokens up, in one call, and say whether waiting for more is worth it."""
        load = self._loads.setdefault(request_id, _Load())
        attachment = self._keyspace.attachment()
        if attachment is None or load.phase is LoadPhase.DENIED:
            load.hits, load.looked_up_keys, load.looked_up_tokens = {}, 0, 0
            return Verdict.GO
        if load.wait is not None:
            if self._waits.goes_on(load.wait, attachment):
                return Verdict.WAIT
            self._end_wait(load)
        # Read before the lookup: what changes during it is seen as a change the next time.
        load.word = attachment.progress()
        keys, states = self._look_up(load, attachment, groups, computed_tokens, total_tokens)
        if load.phase is LoadPhase.LOOKING:
            states = [self._with_pending(one, state) for one, state in zip(keys, states, strict=True)]
            wanted = select(groups, states, computed_tokens, total_tokens)
            if any(entry.state != _core.HIT for entry in wanted):
                load.wait = self._waits.begin(attachment, wanted, groups, total_tokens)
                load.phase = LoadPhase.WAITING if load.wait is not None else LoadPhase.SETTLED
            if load.wait is not None:
                load.promoted |= load.wait.promoted()
                return Verdict.WAIT
        load.hits = {
            key: None
            for group_keys, state in zip(keys, states, strict=True)
            for key, answer in zip(group_keys, state, strict=True)
            if answer == _core.HIT
        }
        return self._with_tickets(request_id, load, attachment)

    def _look_up(
        self, load: _Load, attachment: _core.Attachment, groups: list[Group], computed_tokens: int, total_tokens: int
    ) -> tuple[list[list[bytes]], list[bytes]]:
        """Per group the keys past computed_tokens, and one answer for each."""
        keys = [
            group.keys[computed_tokens // group.chunk_tokens : -(-total_tokens // group.chunk_tokens)]
            for group in groups
        ]
        # A load ends with a chunk of every group, so what is beyond their last whole ones could never come.
        ends = [
            (computed_tokens // group.chunk_tokens + len(group_keys)) * group.chunk_tokens
            for group, group_keys in zip(groups, keys, strict=True)
        ]
        load.looked_up_tokens = max(min(ends, default=0) - computed_tokens, 0)
        answers = attachment.lookup(b"".join(key for group_keys in keys for key in group_keys))
        load.looked_up_keys = len(answers)
        states: list[bytes] = []
        first = 0
        for group_keys in keys:
            states.append(answers[first : first + len(group_keys)])
            first += len(group_keys)
        return keys, states

    def _with_pending(self, keys: list[bytes], answers: bytes) -> bytes:
        """Misses that this engine is storing right now are worth 50 ms, once per request."""
        changed = bytearray(answers)
        for at, key in enumerate(keys):
            if answers[at] == _core.MISS and self._ledger.holds(key):
                changed[at] = PENDING
        return bytes(changed)

    def _with_tickets(self, request_id: str, load: _Load, attachment: _core.Attachment) -> Verdict:
        """A burst may want more tickets than there are: its last requests wait until loads of the first ones end."""
        needed = -(-len(load.hits) // _core.MAX_TICKET_SLOTS)
        if attachment.open_tickets() + needed <= _core.MAX_TICKETS:
            if load.phase is LoadPhase.QUEUED:
                load.phase = LoadPhase.SETTLED
            if load.hits and not load.is_used:
                self._unused[request_id] = load
            return Verdict.GO
        now = self._clock()
        if load.phase is not LoadPhase.QUEUED:
            load.phase, load.queued_until = LoadPhase.QUEUED, now + UNKNOWN_WAIT_SECONDS
        load.hits = {}
        return Verdict.WAIT if now < load.queued_until else Verdict.GO

    def situation(self, request_id: str, *, answered: bool = False) -> tuple[int, LoadPhase, int] | None:
        """What `resolve` answers from, but for the tokens: while it is equal, so is the answer. None: the answer may change by itself.

        answered: as it was before the newest answer's lookup. The progress word changes whenever an entry became hit or miss
        (docs/formats.md); until a request is settled, chunks that this engine begins to store count too. What a repeated answer calls a
        hit is looked up again when it is claimed.
        """
        load, attachment = self._loads.get(request_id), self._keyspace.attachment()
        if load is None or attachment is None or load.phase in (LoadPhase.WAITING, LoadPhase.QUEUED):
            return None
        word = load.word if answered else attachment.progress()
        return word, load.phase, self._ledger.leased if load.phase is LoadPhase.LOOKING else -1

    def repeat(self, request_id: str) -> Verdict:
        """Answer as `resolve` did in an equal situation; hits may be claimed in this step."""
        load, attachment = self._loads[request_id], self._keyspace.attachment()
        if attachment is None:
            return Verdict.GO
        attachment.lookup(b"")  # begins the step
        return self._with_tickets(request_id, load, attachment)

    def is_hit(self, request_id: str, key: bytes) -> bool:
        load = self._loads.get(request_id)
        return load is not None and key in load.hits

    def was_promoted(self, request_id: str, key: bytes) -> bool:
        """Whether this request waited for the chunk to come from NVMe."""
        load = self._loads.get(request_id)
        return load is not None and key in load.promoted

    # When it does

    def claim(self, request_id: str, keys: Sequence[bytes]) -> tuple[tuple[int, ...], bytes] | None:
        """Pin chunks that are hits in this step: (tickets, int32 slots). None: not all are any more; nothing is pinned then."""
        load = self._loads.setdefault(request_id, _Load())
        attachment = self._keyspace.attachment()
        if attachment is None:
            return None
        tickets: list[int] = []
        slots: list[bytes] = []
        for first in range(0, len(keys), _core.MAX_TICKET_SLOTS):
            taken = attachment.take_ticket(b"".join(keys[first : first + _core.MAX_TICKET_SLOTS]))
            if taken is None:
                for ticket in tickets:
                    attachment.cancel_ticket(ticket)
                return None
            tickets.append(taken[0])
            slots.append(taken[1])
        self._unsent_tickets.extend((request_id, ticket) for ticket in tickets)
        self._end_wait(load)
        self._count_hits(load, attachment, keys)
        self._unused.pop(request_id, None)
        self._use(load, attachment, keys)
        return tuple(tickets), b"".join(slots)

    def _count_hits(self, load: _Load, attachment: _core.Attachment, keys: Sequence[bytes]) -> None:
        from_nvme = sum(key in load.promoted for key in keys)
        load.claimed_keys += len(keys)
        attachment.count(_core.COUNT_LOADED_CHUNKS, len(keys))
        attachment.count(_core.COUNT_HIT_KEYS, len(keys) - from_nvme)
        attachment.count(_core.COUNT_NVME_KEYS, from_nvme)

    def _use(self, load: _Load, attachment: _core.Attachment, keys: Iterable[bytes]) -> None:
        """Say that these chunks are in use, the last first, so that the beginning of the request counts as used most recently."""
        load.is_used = True
        attachment.use(b"".join([*keys][MAX_USED_KEYS - 1 :: -1]))

    def scheduled(self, request_id: str, tokens: LoadTokens | None = None) -> None:
        """The engine gave the request its blocks, and awaits a load of `tokens`: its wait is spent, and a later return begins a new one.

        Here and not at the lookup is counted what was looked up: a request that waits is looked up again and again, and what it finds
        on the device meanwhile grows.
        """
        load = self._loads.get(request_id)
        if load is None:
            return
        self._end_wait(load)
        attachment = self._link.attachment()
        if attachment is not None:
            attachment.count(_core.COUNT_LOOKED_UP_TOKENS, load.looked_up_tokens)
            attachment.count(_core.COUNT_LOOKUP_KEYS, load.looked_up_keys)
            attachment.count(_core.COUNT_MISS_KEYS, max(load.looked_up_keys - load.claimed_keys, 0))
        if load.phase is not LoadPhase.DENIED:
            load.phase = LoadPhase.LOOKING
        load.looked_up_tokens = load.looked_up_keys = load.claimed_keys = 0
        load.is_used = False
        load.tokens = tokens or load.tokens

    def loaded(self, request_id: str) -> None:
        """The load that the request was scheduled with is over and good on every rank."""
        load, attachment = self._loads.get(request_id), self._link.attachment()
        if load is None or load.tokens is None or attachment is None:
            return
        attachment.count(_core.COUNT_LOADED_DRAM_TOKENS, load.tokens.dram)
        attachment.count(_core.COUNT_LOADED_NVME_TOKENS, load.tokens.nvme)
        attachment.count(_core.COUNT_LOADED_OTHER_TOKENS, load.tokens.other)
        load.tokens = None

    def failed(self, request_id: str) -> None:
        """A load of this request failed: its chunks are misses until it ends, or it would be asked to load them for ever."""
        load, attachment = self._loads.get(request_id), self._link.attachment()
        is_news = load is None or load.phase is not LoadPhase.DENIED
        self.deny(request_id)
        self._loads[request_id].tokens = None
        if attachment is not None and is_news:
            attachment.count(_core.COUNT_LOAD_FAILURES, 1)

    def _end_wait(self, load: _Load) -> None:
        if load.wait is not None:
            self._waits.end(load.wait)
            load.phase, load.wait = LoadPhase.SETTLED, None

    # The session's

    def known(self) -> set[str]:
        """The requests that have asked for something and have not ended."""
        return set(self._loads)

    def deny(self, request_id: str) -> None:
        """The request loads nothing until it ends."""
        load = self._loads.setdefault(request_id, _Load())
        self._end_wait(load)
        load.phase, load.hits = LoadPhase.DENIED, {}
        self._unused.pop(request_id, None)

    def cancel_unsent(self, request_id: str) -> None:
        """No rank will hear of what the request has claimed since the last step went out."""
        attachment = self._link.attachment()
        if attachment is not None:
            for ticket in [ticket for owner, ticket in self._unsent_tickets if owner == request_id]:
                attachment.cancel_ticket(ticket)
        self._unsent_tickets = [entry for entry in self._unsent_tickets if entry[0] != request_id]

    def sent(self) -> None:
        """The ranks are told of every claim until now: from here on they say when a slot is free."""
        self._unsent_tickets.clear()

    def step_ended(self) -> None:
        """No slot may be read any more but under a ticket. What was hit and is still to be loaded counts as used, once."""
        attachment = self._link.attachment()
        if attachment is None:
            return
        attachment.end_step()
        unused, self._unused = self._unused, {}
        for load in unused.values():
            self._use(load, attachment, load.hits)

    def finished(self, request_id: str, used_keys: Sequence[bytes]) -> None:
        """The request is over. used_keys: its chunks, the last first."""
        load, attachment = self._loads.pop(request_id, None), self._keyspace.attachment()
        self._unused.pop(request_id, None)
        if load is not None:
            self._end_wait(load)
        if attachment is not None and used_keys:
            attachment.use(b"".join(used_keys[-MAX_USED_KEYS:]))

    def give_up(self) -> None:
        """Forget all requests, and keep no slot but those the ranks were told of."""
        for load in self._loads.values():
            self._end_wait(load)
        attachment = self._link.attachment()
        if attachment is not None:
            for _request_id, ticket in self._unsent_tickets:
                attachment.cancel_ticket(ticket)
            attachment.end_step()
        self._loads.clear()
        self._unused.clear()
        self._unsent_tickets.clear()
