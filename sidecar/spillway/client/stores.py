"""The storing half of a session: lease slots for what is not stored yet, publish what the ranks have filled.

Slots are written only under a lease. An offer takes the longest leading run that there are slots for; what is cut off is offered
again, because a chunk without its parent is of no use.
"""

from __future__ import annotations

import enum
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from spillway import _core
from spillway.client.keyspace import Keyspace
from spillway.client.ledger import Ledger
from spillway.client.link import Link
from spillway.client.records import StoreOffer

# How long a request's chunks are offered again without a slot before the request gives up storing; of the time between two offers so much
# counts at most, because a long step is no word from the sidecar.
STARVED_SECONDS: Final = 2.0
STARVED_STEP_SECONDS: Final = 0.25


class StorePhase(enum.Enum):
    """Where a request stands with its offers."""

    OPEN = "open"  # the newest offer found slots, or asked for none
    STARVED = "starved"  # the newest offers found none; the request gives up after a while
    CLOSED = "closed"  # it stores nothing any more


@dataclass
class _Store:
    phase: StorePhase = StorePhase.OPEN
    hole_token: float = float("inf")  # chunks that end here or behind have no parent in the cache
    starved_seconds: float = 0.0  # STARVED: how much of the time since counts
    offered_at: float = 0.0  # STARVED: the newest offer
    left_out: int = 0  # chunks of the newest offer that found no slot


class Stores:
    """`ledger` knows every chunk between its lease and its insertion."""

    def __init__(
        self, link: Link, keyspace: Keyspace, ledger: Ledger, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._link = link
        self._keyspace = keyspace
        self._ledger = ledger
        self._clock = clock
        self._stores: dict[str, _Store] = {}
        self._cuts: dict[str, int] = {}
        self._unmet: set[str] = set()

    def offer(self, request_id: str, offers: list[StoreOffer]) -> list[tuple[StoreOffer, int]] | None:
        """Lease slots for what is not stored yet: the longest leading run. None: no slot now, offer the same again next step.

        Where the run is cut the adapter offers the rest again (`take_cuts`). A request that gets no slot at all for two seconds has
        a hole there: without their parent its later chunks are useless, so they are declined too.
        """
        store = self._stores.setdefault(request_id, _Store())
        offers = [offer for offer in offers if offer.end_token < store.hole_token]
        if not offers or store.phase is StorePhase.CLOSED:
            return []
        attachment = self._keyspace.attachment()
        if attachment is None:
            store.hole_token = min(offer.end_token for offer in offers)
            return []
        new = self._not_stored(attachment, offers)
        accepted, cut = self._ledger.take(attachment, new)
        store.left_out = len(new) - len(accepted)
        if accepted or cut is None:
            store.phase = StorePhase.OPEN
        if cut is None:
            return accepted
        if accepted:
            self._cuts[request_id] = cut
            self._unmet.add(request_id)
            return accepted
        if not self._gives_up(store):
            self._unmet.add(request_id)
            return None
        store.hole_token, store.left_out = cut, 0
        attachment.count(_core.COUNT_STORE_DECLINED, len(new))
        return []

    def _not_stored(self, attachment: _core.Attachment, offers: list[StoreOffer]) -> list[StoreOffer]:
        answers = attachment.lookup(b"".join(offer.key for offer in offers))
        attachment.end_step()
        return [
            offer
            for offer, answer in zip(offers, answers, strict=True)
            if answer == _core.MISS and not self._ledger.holds(offer.key)
        ]

    def _gives_up(self, store: _Store) -> bool:
        """Note an offer that found no slot; whether there were enough of them."""
        now = self._clock()
        if store.phase is not StorePhase.STARVED:
            store.phase, store.starved_seconds = StorePhase.STARVED, 0.0
        else:
            store.starved_seconds += min(now - store.offered_at, STARVED_STEP_SECONDS)
        store.offered_at = now
        return store.starved_seconds >= STARVED_SECONDS

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

    def stored(self, keys: Iterable[bytes], failed: bool) -> None:
        """The copies of these leased chunks are over on every rank: publish them, or give their slots back."""
        published = self._ledger.complete(keys, failed)
        attachment = self._link.attachment()
        if attachment is not None:
            self._ledger.flush(attachment, self._clock())
            attachment.count(_core.COUNT_STORED_CHUNKS, published)

    def abandon(self, places: Iterable[tuple[int, int]]) -> None:
        """Copies of which nobody wants to hear (`Session.reset`, `give_up`) are over: (group, slot) may be given back."""
        self._ledger.abandon(places)
        attachment = self._link.attachment()
        if attachment is not None:
            self._ledger.flush(attachment, self._clock())

    # The session's

    def known(self) -> set[str]:
        """The requests that have offered something and have not ended."""
        return set(self._stores)

    def close(self, request_id: str) -> None:
        """The request stores nothing until it ends."""
        self._stores.setdefault(request_id, _Store()).phase = StorePhase.CLOSED

    def sent(self) -> None:
        """The ranks are told of every accepted offer until now: from here on they say when its copy is over."""
        self._ledger.sent()

    def step_ended(self) -> None:
        """Offer the ring what it did not take before."""
        attachment = self._link.attachment()
        if attachment is not None and self._keyspace.is_told:
            self._ledger.flush(attachment, self._clock())

    def finished(self, request_id: str) -> None:
        """What of the request found no slot has none now."""
        store, attachment = self._stores.pop(request_id, None), self._keyspace.attachment()
        if store is not None and store.left_out and attachment is not None:
            attachment.count(_core.COUNT_STORE_ENDED, store.left_out)

    def forget(self) -> None:
        """Nothing that is under way is published any more; slots that the ranks were told of come back by `abandon`."""
        self._ledger.forget()

    def give_up(self) -> None:
        """Forget all requests too, and give back what can be given back now."""
        self._stores.clear()
        self._cuts.clear()
        self._unmet.clear()
        self.forget()
        attachment = self._link.attachment()
        if attachment is not None:
            self._ledger.flush(attachment, self._clock())
