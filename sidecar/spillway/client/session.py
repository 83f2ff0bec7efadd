"""The scheduler's half of the engine's side: resolve, claim, store, publish, forget.

Adapters call it from the engine's scheduling loop, in one thread. It answers at once whatever the sidecar does: an absent, hung or
full sidecar means misses and declined stores. Slots are read only between a lookup and the end of the same step, or
under a ticket; slots are written only under a lease.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from spillway import _core
from spillway.client.announcements import Announcements, Change
from spillway.client.gate import Gate
from spillway.client.ledger import Ledger
from spillway.client.link import GroupGeometry, Link
from spillway.client.plan import PENDING, Plan, Wanted, select
from spillway.client.records import Group, LoadTokens, StoreOffer, Verdict

PENDING_SECONDS: Final = 0.05
# A wait that no estimate bounds; the engine has not prefilled enough yet to know better.
UNKNOWN_WAIT_SECONDS: Final = 5.0
RESERVED_RATIO: Final = 0.5
# How long a request's chunks are offered again without a slot before the request gives up storing; of the time between two offers so much
# counts at most, because a long step is no word from the sidecar.
STARVED_SECONDS: Final = 2.0
STARVED_STEP_SECONDS: Final = 0.25
MAX_USED_KEYS: Final = 1024
_NO_KEYS: Final[frozenset[bytes]] = frozenset()


@dataclass
class _Request:
    hits: frozenset[bytes] | set[bytes] = _NO_KEYS
    plan: Plan | None = None
    settled: bool = False
    denied: bool = False
    storing: bool = True
    counted: bool = False
    looked_up_tokens: int = 0  # by the newest lookup
    load: LoadTokens | None = None
    hole_token: int | None = None
    starved_seconds: float = 0.0
    starved_at: float | None = None  # the newest offer, where that found no slot
    pending_until: float | None = None
    ticketless_since: float | None = None
    word: int = 0  # the progress word before the newest lookup
    left_out: int = 0  # chunks of the newest offer that found no slot
    promoted: set[bytes] = field(default_factory=set)


class Session:
    """One engine incarnation. `gate` and `io_deadline_seconds` bound what a request waits for; `announces`: routers listen."""

    def __init__(
        self,
        link: Link,
        gate: Gate,
        io_deadline_seconds: float,
        clock: Callable[[], float] = time.monotonic,
        *,
        announces: bool = False,
    ) -> None:
        self._link = link
        self._gate = gate
        self._io_deadline_seconds = io_deadline_seconds
        self._clock = clock
        self._requests: dict[str, _Request] = {}
        self._ledger = Ledger()
        self._unsent_tickets: list[tuple[str, int]] = []
        self._cuts: dict[str, int] = {}
        self._unmet: set[str] = set()
        self._announcements = Announcements() if announces else None
        self._fingerprint: bytes | None = None
        self._nonce = b""
        self._in_force = False
        self._reserved_bytes = 0

    # Identity

    def set_fingerprint(self, fingerprint: bytes) -> None:
        """What every key from now on is under. Until it is set everything is a miss."""
        self._fingerprint = hashlib.sha256(fingerprint + self._nonce).digest() if self._nonce else fingerprint
        self._in_force = False

    def reset(self) -> None:
        """The engine's weights may have changed: this incarnation shares nothing with what was stored before.

        Requests that are under way were computed with the old weights: they load and store nothing any more.
        """
        self._nonce = os.urandom(32)
        if self._fingerprint is not None:
            self.set_fingerprint(self._fingerprint)
        for request in self._requests.values():
            self._drop_plan(request)
            request.denied, request.storing, request.hits = True, False, _NO_KEYS
        self._ledger.forget()
        if self._announcements is not None:
            self._announcements.forget()

    def _usable(self) -> _core.Attachment | None:
        attachment = self._link.attachment()
        if attachment is None or self._fingerprint is None:
            return None
        if not self._in_force:
            self._in_force = attachment.set_fingerprint(self._fingerprint)
        return attachment if self._in_force else None

    # Loading

    def resolve(self, request_id: str, groups: list[Group], computed_tokens: int, total_tokens: int) -> Verdict:
        """Look a request's chunks past computed_tokens up, in one call, and say whether waiting for more is worth it."""
        request = self._requests.setdefault(request_id, _Request())
        attachment = self._usable()
        if attachment is None or request.denied:
            request.hits, request.looked_up_tokens = _NO_KEYS, 0
            return Verdict.GO
        if request.plan is not None and self._wait(request, request.plan, attachment):
            return Verdict.WAIT
        # Read before the lookup: what changes during it is seen as a change the next time.
        request.word = attachment.progress()
        keys, states = self._states(request, attachment, groups, computed_tokens, total_tokens)
        if not request.settled:
            wanted = select(groups, states, computed_tokens, total_tokens)
            if any(entry.state != _core.HIT for entry in wanted):
                self._make_plan(request, attachment, wanted, groups, total_tokens)
                if request.plan is not None:
                    return Verdict.WAIT
        request.hits = {
            key
            for group_keys, state in zip(keys, states, strict=True)
            for key, answer in zip(group_keys, state, strict=True)
            if answer == _core.HIT
        }
        return self._with_tickets(request, attachment)

    def _with_tickets(self, request: _Request, attachment: _core.Attachment) -> Verdict:
        """A burst may want more tickets than there are: its last requests wait until loads of the first ones end."""
        needed = -(-len(request.hits) // _core.MAX_TICKET_SLOTS)
        if attachment.open_tickets() + needed <= _core.MAX_TICKETS:
            request.ticketless_since = None
            return Verdict.GO
        now = self._clock()
        if request.ticketless_since is None:
            request.ticketless_since = now
        waits = now - request.ticketless_since < UNKNOWN_WAIT_SECONDS and attachment.sidecar_alive()
        request.hits = _NO_KEYS
        return Verdict.WAIT if waits else Verdict.GO

    def situation(self, request_id: str, *, answered: bool = False) -> tuple[int, bool, int] | None:
        """What `resolve` answers from, but for the tokens: while it is equal, so is the answer. None: the answer may change by itself.

        answered: as it was before the newest answer's lookup. The progress word changes whenever an entry became hit or miss
        (docs/formats.md); until a request is settled, chunks that this engine begins to store count too. What a repeated answer calls a
        hit is looked up again when it is claimed.
        """
        request, attachment = self._requests.get(request_id), self._usable()
        if request is None or attachment is None or request.plan is not None or request.ticketless_since is not None:
            return None
        word = request.word if answered else attachment.progress()
        return word, request.denied, -1 if request.settled else self._ledger.leased

    def repeat(self, request_id: str) -> Verdict:
        """Answer as `resolve` did in an equal situation; hits may be claimed in this step."""
        request, attachment = self._requests[request_id], self._usable()
        if attachment is None:
            return Verdict.GO
        attachment.lookup(b"")  # begins the step
        return self._with_tickets(request, attachment)

    def is_hit(self, request_id: str, key: bytes) -> bool:
        request = self._requests.get(request_id)
        return request is not None and key in request.hits

    def was_promoted(self, request_id: str, key: bytes) -> bool:
        """Whether this request waited for the chunk to come from NVMe."""
        request = self._requests.get(request_id)
        return request is not None and key in request.promoted

    def claim(self, request_id: str, keys: Sequence[bytes]) -> tuple[tuple[int, ...], bytes] | None:
        """Pin chunks that are hits in this step: (tickets, int32 slots). None: not all are any more; nothing is pinned then."""
        request = self._requests.setdefault(request_id, _Request())
        attachment = self._usable()
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
        self._drop_plan(request)
        attachment.count(_core.COUNT_LOADED_CHUNKS, len(keys))
        return tuple(tickets), b"".join(slots)

    def scheduled(self, request_id: str, load: LoadTokens | None = None) -> None:
        """The engine gave the request its blocks, and awaits `load`: its plan is spent, and a later return makes a new one.

        Here and not at the lookup the tokens are counted that were looked up: one that waits is looked up again and again, and
        what it finds on the device meanwhile grows.
        """
        request = self._requests.get(request_id)
        if request is None:
            return
        self._drop_plan(request)
        request.settled = False
        request.pending_until = None
        request.load = load or request.load
        attachment = self._link.attachment()
        if attachment is not None:
            attachment.count(_core.COUNT_LOOKED_UP_TOKENS, request.looked_up_tokens)
        request.looked_up_tokens = 0

    def loaded(self, request_id: str) -> None:
        """The load that the request was scheduled with is over and good on every rank."""
        request, attachment = self._requests.get(request_id), self._link.attachment()
        if request is None or request.load is None or attachment is None:
            return
        attachment.count(_core.COUNT_LOADED_DRAM_TOKENS, request.load.dram)
        attachment.count(_core.COUNT_LOADED_NVME_TOKENS, request.load.nvme)
        attachment.count(_core.COUNT_LOADED_OTHER_TOKENS, request.load.other)
        request.load = None

    def deny(self, request_id: str) -> None:
        """A load of this request failed: its chunks are misses until it ends, or it would be asked to load them for ever."""
        request = self._requests.setdefault(request_id, _Request())
        attachment = self._link.attachment()
        self._drop_plan(request)
        is_news = not request.denied
        request.denied = True
        request.hits, request.load = _NO_KEYS, None
        if attachment is not None and is_news:
            attachment.count(_core.COUNT_LOAD_FAILURES, 1)

    def turn_plain(self, request_id: str, *, keep_claims: bool) -> None:
        """The adapter could not handle this request: it loads and stores nothing any more, and counts as failed open.

        keep_claims: what it has claimed goes to the ranks with this step, which acknowledge it.
        """
        request = self._requests.setdefault(request_id, _Request())
        self._drop_plan(request)
        request.denied, request.storing, request.hits = True, False, _NO_KEYS
        attachment = self._link.attachment()
        if attachment is None:
            return
        attachment.count(_core.COUNT_FAIL_OPEN, 1)
        if not keep_claims:
            for ticket in [ticket for owner, ticket in self._unsent_tickets if owner == request_id]:
                attachment.cancel_ticket(ticket)
            self._unsent_tickets = [entry for entry in self._unsent_tickets if entry[0] != request_id]

    def _states(
        self,
        request: _Request,
        attachment: _core.Attachment,
        groups: list[Group],
        computed_tokens: int,
        total_tokens: int,
    ) -> tuple[list[list[bytes]], list[bytes]]:
        keys = [
            group.keys[computed_tokens // group.chunk_tokens : -(-total_tokens // group.chunk_tokens)]
            for group in groups
        ]
        # A load ends with a chunk of every group, so what is beyond their last whole ones could never come.
        ends = [
            (computed_tokens // group.chunk_tokens + len(group_keys)) * group.chunk_tokens
            for group, group_keys in zip(groups, keys, strict=True)
        ]
        request.looked_up_tokens = max(min(ends, default=0) - computed_tokens, 0)
        answers = attachment.lookup(b"".join(key for group_keys in keys for key in group_keys))
        if not request.counted:
            request.counted = True
            attachment.count(_core.COUNT_LOOKUP_KEYS, len(answers))
            attachment.count(_core.COUNT_HIT_KEYS, answers.count(_core.HIT))
            attachment.count(_core.COUNT_NVME_KEYS, answers.count(_core.NVME))
            attachment.count(_core.COUNT_MISS_KEYS, answers.count(_core.MISS))
        states: list[bytes] = []
        first = 0
        for group_keys in keys:
            states.append(self._with_pending(request, group_keys, answers[first : first + len(group_keys)]))
            first += len(group_keys)
        return keys, states

    def _with_pending(self, request: _Request, keys: list[bytes], answers: bytes) -> bytes:
        """Misses that this engine is storing right now are worth 50 ms, once per request."""
        pending = [at for at, key in enumerate(keys) if answers[at] == _core.MISS and self._ledger.holds(key)]
        if not pending:
            return answers
        now = self._clock()
        if request.pending_until is None:
            request.pending_until = now + PENDING_SECONDS
        if now >= request.pending_until:
            return answers
        changed = bytearray(answers)
        for at in pending:
            changed[at] = PENDING
        return bytes(changed)

    def _make_plan(
        self,
        request: _Request,
        attachment: _core.Attachment,
        wanted: list[Wanted],
        groups: list[Group],
        total_tokens: int,
    ) -> None:
        request.settled = True
        geometry = self._link.geometry
        if geometry is None:
            return
        now = self._clock()
        wanted = self._fitting(attachment, wanted, geometry)
        on_nvme = [entry for entry in wanted if entry.state == _core.NVME]
        promote_bytes = sum(geometry[entry.group].payload_bytes for entry in on_nvme)
        tokens = sum(groups[entry.group].chunk_tokens for entry in on_nvme if entry.group == on_nvme[0].group)
        if on_nvme:
            load_bytes = sum(geometry[entry.group].payload_bytes for entry in wanted)
            if not attachment.sidecar_alive():
                return
            if not self._gate.worth_it(
                tokens=tokens, context_tokens=total_tokens, load_bytes=load_bytes, promote_bytes=promote_bytes
            ):
                attachment.count(_core.COUNT_GATE_DECLINED, 1)
                return
            wanted = self._promote(attachment, wanted, on_nvme)
        recompute = self._gate.recompute_seconds(tokens, total_tokens)
        plan = Plan(
            wanted,
            started=now,
            deadline=now + (UNKNOWN_WAIT_SECONDS if recompute is None or not on_nvme else recompute),
            stall_deadline=now + (self._io_deadline_seconds if on_nvme else PENDING_SECONDS),
            pending_deadline=request.pending_until or float("inf"),
            reserved_bytes=sum(geometry[entry.group].stride_bytes for entry in wanted),
            promoted_bytes=promote_bytes,
            word=attachment.progress(),
        )
        if plan.missing:
            self._reserved_bytes += plan.reserved_bytes
            request.plan = plan
            request.promoted |= plan.promoted()
            self._pin(plan, attachment, {entry.key for entry in wanted if entry.state == _core.HIT})

    def _fitting(
        self, attachment: _core.Attachment, wanted: list[Wanted], geometry: tuple[GroupGeometry, ...]
    ) -> list[Wanted]:
        """What of `wanted` may be reserved: at most half of the arena for all plans together, first come first served."""
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

    def _wait(self, request: _Request, plan: Plan, attachment: _core.Attachment) -> bool:
        """Look at the plan again; False once it is settled."""
        now, word = self._clock(), attachment.progress()
        if plan.unchanged(word, now) and attachment.sidecar_alive():
            return True
        plan.word = word
        answers = attachment.lookup(b"".join(entry.key for entry in plan.wanted))
        hits = {entry.key for entry, answer in zip(plan.wanted, answers, strict=True) if answer == _core.HIT}
        waiting = now < plan.pending_deadline
        gone = {
            entry.key
            for entry, answer in zip(plan.wanted, answers, strict=True)
            if answer == _core.MISS and not (waiting and self._ledger.holds(entry.key))
        }
        if plan.missing & hits:
            plan.stall_deadline = now + self._io_deadline_seconds
        plan.missing -= hits
        if gone:
            plan.cut(gone)
        if not waiting:
            plan.pending_deadline = float("inf")
        if not plan.missing:
            self._gate.promotion.add(plan.promoted_bytes, now - plan.started)
        if not plan.missing or now >= min(plan.deadline, plan.stall_deadline) or not attachment.sidecar_alive():
            self._release_reservation(plan, request)
            return False
        self._pin(plan, attachment, hits)
        request.plan = plan
        return True

    def _pin(self, plan: Plan, attachment: _core.Attachment, hits: set[bytes]) -> None:
        """Keep what has come while the rest comes: one ticket over all hits, in place of the one before."""
        keys = [entry.key for entry in plan.wanted if entry.key in hits][: _core.MAX_TICKET_SLOTS]
        taken = attachment.take_ticket(b"".join(keys)) if keys else None
        if taken is not None:
            if plan.ticket is not None:
                attachment.cancel_ticket(plan.ticket)
            plan.ticket = taken[0]

    def _release_reservation(self, plan: Plan, request: _Request) -> None:
        self._reserved_bytes -= plan.reserved_bytes
        plan.reserved_bytes = 0
        if request.plan is plan:
            attachment = self._link.attachment()
            if plan.ticket is not None and attachment is not None:
                attachment.cancel_ticket(plan.ticket)  # this step's lookups protect the hits until they are claimed
                plan.ticket = None
            request.plan = None

    def _drop_plan(self, request: _Request) -> None:
        if request.plan is not None:
            self._release_reservation(request.plan, request)

    # Storing

    def offer_store(self, request_id: str, offers: list[StoreOffer]) -> list[tuple[StoreOffer, int]] | None:
        """Lease slots for what is not stored yet: the longest leading run. None: no slot now, offer the same again next step.

        Where the run is cut the adapter offers the rest again (`take_cuts`). A request that gets no slot at all for two seconds has
        a hole there: without their parent its later chunks are useless, so they are declined too.
        """
        request = self._requests.setdefault(request_id, _Request())
        attachment = self._usable()
        hole = request.hole_token
        offers = [offer for offer in offers if hole is None or offer.end_token < hole]
        if not offers or not request.storing:
            return []
        if attachment is None:
            request.hole_token = min(offer.end_token for offer in offers)
            return []
        answers = attachment.lookup(b"".join(offer.key for offer in offers))
        attachment.end_step()
        new = [
            offer
            for offer, answer in zip(offers, answers, strict=True)
            if answer == _core.MISS and not self._ledger.holds(offer.key)
        ]
        accepted, cut = self._ledger.take(attachment, new)
        request.left_out = len(new) - len(accepted)
        if accepted or cut is None:
            request.starved_at, request.starved_seconds = None, 0.0
        if cut is None:
            return accepted
        if accepted:
            self._cuts[request_id] = cut
            self._unmet.add(request_id)
            return accepted
        if not self._starved(request):
            self._unmet.add(request_id)
            return None
        request.hole_token, request.left_out = cut, 0
        attachment.count(_core.COUNT_STORE_DECLINED, len(new))
        return []

    def was_cut(self, request_id: str) -> bool:
        """Whether of the newest offer only a leading run was accepted."""
        return request_id in self._cuts

    def take_cuts(self) -> dict[str, int]:
        """Since the last call: the requests of which only a leading run was accepted, each with the first end token that was not."""
        cuts, self._cuts = self._cuts, {}
        return cuts

    def take_unmet(self) -> set[str]:
        """Since the last call: the requests that made an offer of which something found no slot and may find one yet."""
        unmet, self._unmet = self._unmet, set()
        return unmet

    def _starved(self, request: _Request) -> bool:
        now = self._clock()
        if request.starved_at is not None:
            request.starved_seconds += min(now - request.starved_at, STARVED_STEP_SECONDS)
        request.starved_at = now
        return request.starved_seconds >= STARVED_SECONDS

    def stored(self, keys: Iterable[bytes], failed: bool) -> None:
        """The copies of these leased chunks are over on every rank: publish them, or give their slots back."""
        keys = list(keys)
        published = self._ledger.complete(keys, failed)
        if self._announcements is not None and not failed:
            self._announcements.expect(keys)
        attachment = self._link.attachment()
        if attachment is not None:
            self._ledger.flush(attachment, self._clock())
            attachment.count(_core.COUNT_STORED_CHUNKS, published)

    def abandon(self, places: Iterable[tuple[int, int]]) -> None:
        """Copies of which nobody wants to hear (`reset`, `give_up`) are over: (group, slot) may be given back."""
        self._ledger.abandon(places)
        attachment = self._link.attachment()
        if attachment is not None:
            self._ledger.flush(attachment, self._clock())

    def take_changes(self) -> list[Change]:
        """Chunks of this engine that became loadable, moved between the tiers or left since the last call, as far as looked up."""
        attachment = self._usable()
        if self._announcements is None or attachment is None:
            return []
        found = self._announcements.changes(attachment.progress(), attachment.lookup)
        attachment.end_step()
        return found

    # The step and the request

    def sent(self) -> None:
        """The ranks are told of every claim and every accepted offer until now: from here on they say when a slot is free."""
        self._unsent_tickets.clear()
        self._ledger.sent()

    def step_ended(self) -> None:
        """No slot may be read any more but under a ticket."""
        attachment = self._link.attachment()
        if attachment is not None:
            attachment.end_step()
            if self._in_force:
                self._ledger.flush(attachment, self._clock())

    def finished(self, request_id: str, used_keys: Sequence[bytes]) -> None:
        """The request is over. used_keys: its chunks, the last first, so that its beginning counts as used most recently."""
        request = self._requests.pop(request_id, None)
        attachment = self._usable()
        if request is not None:
            self._drop_plan(request)
            if request.left_out and attachment is not None:
                attachment.count(_core.COUNT_STORE_ENDED, request.left_out)
        if attachment is not None and used_keys:
            attachment.use(b"".join(used_keys[-MAX_USED_KEYS:]))

    def give_up(self) -> None:
        """The adapter goes on without us: count it, and keep no slot but those the ranks were told of (`abandon`)."""
        for request in self._requests.values():
            self._drop_plan(request)
        self._requests.clear()
        self._cuts.clear()
        self._unmet.clear()
        self._ledger.forget()
        attachment = self._link.attachment()
        if attachment is None:
            return
        attachment.count(_core.COUNT_FAIL_OPEN, 1)
        for _request_id, ticket in self._unsent_tickets:
            attachment.cancel_ticket(ticket)
        self._unsent_tickets.clear()
        attachment.end_step()
        self._ledger.flush(attachment, self._clock())

    def close(self) -> None:
        self._link.close()
