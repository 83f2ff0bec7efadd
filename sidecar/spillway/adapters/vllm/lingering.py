"""Finished requests whose last chunks found no slot at their last offer.

vLLM frees a request's blocks when it ends and offers its chunks once more, in the next step. An engine whose requests end with their
prefill (`max_tokens=1`) would lose whatever that one offer found no lease for. But a free block holds what was computed until vLLM gives
it to another request, so such a request is shown to vLLM's half as one that has just finished, step after step, until its chunks have
slots, a block of them is given away, or the session sees no use any more. No block is held back for it. vLLM is not needed here.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from collections.abc import Set as AbstractSet


class Lingering:
    """`blocks_left` names the blocks of a request's chunks that have no slot yet."""

    def __init__(self, blocks_left: Callable[[str], Iterable[int]]) -> None:
        self._blocks_left = blocks_left
        self._finished: list[str] = []
        self.waiting: list[str] = []
        # What vLLM's half is told to forget with the next step; it looks when all offers are made.
        self.ending: set[str] = set()

    def begin_step(self, finished: Iterable[str]) -> None:
        """finished: the requests that ended since the last step."""
        self._finished = [request_id for request_id in finished if request_id not in self.waiting]

    def give_way(self, allocated: AbstractSet[int]) -> None:
        """Before a step's offers: blocks given to requests in this step hold what was computed no longer."""
        self._keep(lambda request_id: allocated.isdisjoint(self._blocks_left(request_id)))

    def offered(self) -> list[str]:
        """The requests to be offered as finished in this step."""
        return [*self.waiting, *self._finished]

    def end_step(self, unmet: Collection[str], allocated: AbstractSet[int]) -> None:
        """unmet: whose offer of this step found too few slots. All others, and those whose blocks are given away, have ended."""
        self.waiting = self.offered()
        self._finished = []
        self._keep(lambda request_id: request_id in unmet)
        self.give_way(allocated)

    def drop(self, request_id: str) -> bool:
        """The name is another request's now, and so is what vLLM's half keeps under it. Whether it was waiting."""
        was_waiting = request_id in self.waiting
        self.waiting = [waiting for waiting in self.waiting if waiting != request_id]
        self.ending.discard(request_id)
        return was_waiting

    def forget(self) -> None:
        """What the blocks hold is not to be stored any more; vLLM's half forgets the requests with the next step."""
        self._keep(lambda _request_id: False)

    def _keep(self, stays: Callable[[str], bool]) -> None:
        kept = [request_id for request_id in self.waiting if stays(request_id)]
        self.ending |= set(self.waiting) - set(kept)
        self.waiting = kept
