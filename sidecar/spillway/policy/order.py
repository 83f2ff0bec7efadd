"""In which order chunks leave a tier. The planner knows an order by this protocol alone, so another one is a file and a line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol


class EvictionOrder(Protocol):
    """The chunks of one tier, apart for each slot class, and which of them leave first."""

    def __len__(self) -> int:
        """Chunks known."""

    def __contains__(self, key: object) -> bool:
        """Whether a chunk is known."""

    def add(self, key: bytes, class_id: int) -> None:
        """A chunk came into the tier, or was put there again: that is a use."""

    def touch(self, key: bytes) -> bool:
        """A chunk was used; an unknown one stays unknown. Whether it is known."""

    def discard(self, key: bytes) -> bool:
        """A chunk left; whether it was known."""

    def class_of(self, key: bytes) -> int | None:
        """A chunk's class; None: it is unknown."""

    def count(self, class_id: int) -> int:
        """Chunks of a class."""

    def victims(
        self,
        class_id: int,
        count: int,
        preferred: Callable[[bytes], bool] | None = None,
        kept: Callable[[bytes], bool] | None = None,
    ) -> list[bytes]:
        """At most `count` chunks to evict, first to leave first: none that is kept, and preferred ones before their neighbours."""

    def oldest_class(self) -> int | None:
        """The class of the chunk that leaves first of all; None: there is none."""

    def donor(self, class_id: int) -> int | None:
        """The class that should give an extent to this one; None: nobody should."""
