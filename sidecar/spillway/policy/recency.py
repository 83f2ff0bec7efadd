"""Least recently used, per slot class. An engine sends a request's keys suffix first, so a suffix leaves before its prefix.

Slots are cut from extents, and an extent serves one class. `donor` says when one should change hands: otherwise a disk
that an earlier model filled would stay that model's for ever.

What is remembered of a chunk lies in the core's `UseOrder`: 40 bytes (key, links to its neighbours in use, time of use, class) and
4 in a hash table. As Python objects it was 244 bytes, and a disk of millions of chunks ended the daemon. The choices are here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from spillway._core import UseOrder

# A whole extent leaves its class for one chunk of another, so the difference in age must be clear (the figure is arbitrary).
DONOR_MARGIN: Final = 8
# What a chunk costs in one order, with room for segments that are not full (measured: 44 and a bit).
BYTES_PER_RECORD: Final = 48


class Recency(UseOrder):
    """Keys of one tier in order of use, oldest first, apart for each slot class. Keys are 16 bytes, else ValueError."""

    def victims(
        self,
        class_id: int,
        count: int,
        preferred: Callable[[bytes], bool] | None = None,
        kept: Callable[[bytes], bool] | None = None,
        window: int = 64,
    ) -> list[bytes]:
        """The `count` chunks to evict first: among the oldest `count + window` that are not kept those preferred, then the oldest."""
        if preferred is None and kept is None:
            return self.oldest(class_id, count)
        first: list[bytes] = []
        others: list[bytes] = []
        lacking, looks = count, count + window
        after: bytes | None = None
        while lacking and looks:
            # Mostly the oldest are the victims, so no more are fetched than are lacking.
            found = self.oldest(class_id, min(lacking, looks), after)
            if not found:
                break
            after = found[-1]
            if kept is not None:
                found = [key for key in found if not kept(key)]
            looks -= len(found)
            if preferred is None:
                first += found
                lacking -= len(found)
                continue
            for key in found:
                if preferred(key):
                    first.append(key)
                    lacking -= 1
                else:
                    others.append(key)
        return first + others[: count - len(first)]

    def oldest_class(self) -> int | None:
        """The class of the chunk that was used longest ago."""
        return min(self.spans(), key=lambda span: span[1], default=(None,))[0]

    def donor(self, class_id: int) -> int | None:
        """The class that should give an extent to this one: that of the oldest chunk, if this class has none or its own
        oldest was used later by more than an eighth of all the uses that the chunks here span."""
        spans = self.spans()
        own = next((oldest for other, oldest, _youngest in spans if other == class_id), None)
        others = [(oldest, other) for other, oldest, _youngest in spans if other != class_id]
        if not others:
            return None
        last_use, donor = min(others)
        if own is None:
            return donor
        newest = max(youngest for _class, _oldest, youngest in spans)
        return donor if own - last_use > (newest - last_use) // DONOR_MARGIN else None
