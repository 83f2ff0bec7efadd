"""Attach to the sidecar's shared memory, as late as the sidecar comes.

The engine may start before its sidecar, outlive it and see its successor. So nothing here waits: each call looks whether the next
step can be taken now, at most every 100 ms, and answers "not yet" otherwise. What is refused for good is said once.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from spillway import _core

RETRY_SECONDS: Final = 0.1
SCHEDULER: Final = -1
# Why the sidecar refused an engine, and what to do.
_REFUSALS: Final = {
    _core.REFUSED_ABI: "its image and this pod's client are more than one version apart; recreate the pod",
    _core.REFUSED_GEOMETRY: "a chunk of this model does not fit a slot",
    _core.REFUSED_FAULT: "this engine's control file was damaged; restart the engine's container",
    _core.REFUSED_TABLE_FULL: "too many engines or slot sizes are attached already",
    _core.REFUSED_STALE: "it began anew since this engine attached; restart the engine's container",
}


@dataclass(frozen=True)
class GroupGeometry:
    """Where a group's chunks lie: the slot's stride, its payload, and each rank's (offset, bytes) in it."""

    stride_bytes: int
    payload_bytes: int
    ranks: tuple[tuple[int, int], ...]


class _Attached:
    """What both roles share: one attachment that is made when it can be."""

    def __init__(self, root: str, incarnation: bytes, ranks: int, groups: int, rank: int) -> None:
        self._arguments = (root, incarnation, ranks, groups, rank)
        self._attachment: _core.Attachment | None = None
        self._next_try = 0.0
        self._geometry: tuple[GroupGeometry, ...] | None = None
        self.problem: str | None = None

    def _due(self, now: float) -> bool:
        if now < self._next_try:
            return False
        self._next_try = now + RETRY_SECONDS
        return True

    def _open(self) -> _core.Attachment | None:
        if self._attachment is None and self.problem is None:
            try:
                self._attachment = _core.Attachment(*self._arguments)
            except _core.SidecarAbsent:
                return None
            except _core.AttachError as error:
                self.problem = str(error)
        return self._attachment

    def _learn_geometry(self, attachment: _core.Attachment) -> bool:
        if self._geometry is None:
            state, reason = attachment.state()
            if state == _core.STATE_REFUSED:
                why = _REFUSALS.get(reason, "it gave no reason that this client knows")
                self.problem = f"the sidecar refused this engine: {why} (reason {reason})"
                return False
            found = attachment.geometry()
            if found is None:
                return False
            self._geometry = tuple(GroupGeometry(stride, payload, tuple(ranks)) for stride, payload, ranks in found)
        return True

    def _map(self, attachment: _core.Attachment) -> bool:
        try:
            return attachment.try_map()
        except _core.AttachError as error:
            self.problem = str(error)
            return False

    @property
    def geometry(self) -> tuple[GroupGeometry, ...] | None:
        return self._geometry

    def close(self) -> None:
        if self._attachment is not None:
            self._attachment.close()
            self._attachment = None


class Link(_Attached):
    """The scheduler's attachment."""

    def __init__(
        self, root: str, incarnation: bytes, ranks: int, groups: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__(root, incarnation, ranks, groups, SCHEDULER)
        self._clock = clock
        self._ready = False

    def attachment(self) -> _core.Attachment | None:
        """The attachment once lookups and leases can work; None before, and for good when `problem` is set."""
        if self._ready:
            return self._attachment
        if self.problem is None and self._due(self._clock()):
            attachment = self._open()
            self._ready = attachment is not None and self._learn_geometry(attachment) and self._map(attachment)
        return self._attachment if self._ready else None

    def refused(self) -> bool:
        """Whether the sidecar dropped this engine after it had attached (its control file was damaged)."""
        return self._attachment is not None and self._attachment.state()[0] == _core.STATE_REFUSED


class RankLink(_Attached):
    """A rank's attachment: says its slice sizes, learns where its slices lie, acknowledges tickets."""

    def __init__(
        self,
        root: str,
        incarnation: bytes,
        ranks: int,
        rank: int,
        slice_bytes: list[int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(root, incarnation, ranks, len(slice_bytes), rank)
        self._slice_bytes = slice_bytes
        self._clock = clock
        self._declared = False

    def poll(self) -> bool:
        """Take the next step of attaching, if it is time; True once the geometry is known. Cheap."""
        if self._geometry is not None:
            return True
        if self.problem is not None or not self._due(self._clock()):
            return False
        attachment = self._open()
        if attachment is None:
            return False
        if not self._declared:
            attachment.declare_slices(self._slice_bytes)
            self._declared = True
        return self._learn_geometry(attachment)

    def map(self) -> _core.Attachment | None:
        """The attachment with its arena mapped by the core, or None while the sidecar has not made it."""
        attachment = self._open()
        return attachment if attachment is not None and self._map(attachment) else None

    def ack(self, ticket: int) -> None:
        """This rank's copies of the ticket's slots are over, well or badly."""
        if self._attachment is not None:
            self._attachment.ack(ticket)
