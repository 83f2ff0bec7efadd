"""Slots between lease and insertion: what is being copied, what waits for the ring, what the sidecar has not inserted yet.

A chunk is known here from its lease until shortly after its publication, so that it is neither stored twice nor looked up in vain
meanwhile. Nothing here blocks: what the ring does not take now is offered again at the next step.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from spillway import _core
from spillway.client.records import StoreOffer

# Long enough for the sidecar to hash and insert even behind a full ring; then the index alone answers.
REMEMBER_SECONDS: Final = 1.0


def unpack_slots(packed: bytes) -> tuple[int, ...]:
    return struct.unpack(f"={len(packed) // 4}i", packed)


def pack_slots(slots: Sequence[int]) -> bytes:
    return struct.pack(f"={len(slots)}i", *slots)


@dataclass
class Ledger:
    """Chunks on their way into the cache, by key."""

    _copying: dict[bytes, tuple[int, int]] = field(default_factory=dict)  # key -> (group, slot)
    _unsent: set[bytes] = field(default_factory=set)  # those of `_copying` that no rank was told of
    _published: dict[bytes, float] = field(default_factory=dict)  # key -> when
    _to_publish: deque[tuple[bytes, int, int]] = field(default_factory=deque)
    _to_release: deque[tuple[int, int]] = field(default_factory=deque)
    leased: int = 0  # chunks that were ever taken: `holds` can be true of more only where this is more

    def holds(self, key: bytes) -> bool:
        return key in self._copying or key in self._published

    def take(
        self, attachment: _core.Attachment, offers: Sequence[StoreOffer]
    ) -> tuple[list[tuple[StoreOffer, int]], int | None]:
        """Lease slots for the longest leading run: every offer that ends before the first one without a slot.

        Returns the accepted offers with their slots, in the order given, and the token where the run was cut (None: not at all).
        """
        slots: dict[int, deque[int]] = {}
        cut: int | None = None
        for group in {offer.group for offer in offers}:
            wanted = [offer for offer in offers if offer.group == group]
            slots[group] = deque(unpack_slots(attachment.lease(group, len(wanted))))
            if len(slots[group]) < len(wanted):
                first_without = wanted[len(slots[group])].end_token
                cut = first_without if cut is None else min(cut, first_without)
        accepted: list[tuple[StoreOffer, int]] = []
        for offer in offers:
            if cut is None or offer.end_token < cut:
                slot = slots[offer.group].popleft()
                accepted.append((offer, slot))
                self._copying[offer.key] = (offer.group, slot)
                self._unsent.add(offer.key)
        self.leased += len(accepted)
        self._to_release.extend((group, slot) for group, left in slots.items() for slot in left)
        return accepted, cut

    def sent(self) -> None:
        """The ranks are told of every chunk that is in `copying`: its slot is theirs until they have ended."""
        self._unsent.clear()

    def complete(self, keys: Iterable[bytes], failed: bool) -> int:
        """The copies of these chunks are over. Returns how many will be published; a failed one gives its slot back."""
        published = 0
        for key in keys:
            place = self._copying.pop(key, None)
            if place is None:
                continue
            self._unsent.discard(key)
            if failed:
                self._to_release.append(place)
            else:
                self._to_publish.append((key, *place))
                self._published[key] = float("inf")  # until the ring takes it
                published += 1
        return published

    def abandon(self, places: Iterable[tuple[int, int]]) -> None:
        """Give slots back whose copies are over and whose chunks nobody asks for any more."""
        self._to_release.extend(places)

    def forget(self) -> None:
        """Nothing of this is published any more. What the ranks were told of keeps its slot until `abandon`."""
        self._to_release.extend(self._copying[key] for key in self._unsent)
        self._unsent.clear()
        self._copying.clear()
        self._published.clear()
        self._to_release.extend((group, slot) for _key, group, slot in self._to_publish)
        self._to_publish.clear()

    def flush(self, attachment: _core.Attachment, now: float) -> None:
        """Push into the ring what it takes, and forget what the index knows by now."""
        while self._to_publish:
            group = self._to_publish[0][1]
            batch = [entry for entry in self._to_publish if entry[1] == group]
            taken = attachment.publish(
                b"".join(entry[0] for entry in batch), group, pack_slots([entry[2] for entry in batch])
            )
            for entry in batch[:taken]:
                self._to_publish.remove(entry)
                self._published[entry[0]] = now
            if taken < len(batch):
                attachment.count(_core.COUNT_RING_FULL, 1)
                break
        while self._to_release:
            group, slot = self._to_release[0]
            if not attachment.release(group, pack_slots([slot])):
                break
            self._to_release.popleft()
        for key in [key for key, published in self._published.items() if now - published > REMEMBER_SECONDS]:
            del self._published[key]
