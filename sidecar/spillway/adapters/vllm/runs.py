"""Which bytes a job copies, as one table: consecutive blocks of a tensor are one run.

A job of 32k tokens and 80 layers has 160,000 pieces. They are described by arrays, because one Python object for each held the
interpreter lock for a second, which the engine's own thread needed. numpy is where vLLM is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Addresses = npt.NDArray[np.int64]


class TensorPlace(NamedTuple):
    """A KV tensor as blocks: where block 0 begins, bytes from one block to the next, bytes of a block."""

    address: int
    step_bytes: int
    page_bytes: int


class Runs(NamedTuple):
    """`length_bytes[i]` from address `device[i]` to `host[i]`, or the other way. int64, all of one length."""

    device: Addresses
    host: Addresses
    length_bytes: Addresses

    @property
    def size_bytes(self) -> int:
        return int(self.length_bytes.sum())


NOTHING = Runs(*(np.empty(0, np.int64) for _ in range(3)))


def join(parts: Sequence[Runs]) -> Runs:
    """The runs of several groups as one table."""
    return Runs(*(np.concatenate(column) for column in zip(*parts, strict=True))) if parts else NOTHING


class GroupPlaces:
    """A group's tensors on this rank. Within a chunk's slice all blocks of one tensor lie together, tensor after tensor."""

    def __init__(self, places: Sequence[TensorPlace], blocks_per_chunk: int) -> None:
        self._address, self._step, self._page = (
            np.array(column, np.int64)[:, None] for column in zip(*places, strict=True)
        )
        self._blocks_per_chunk = blocks_per_chunk
        ends = np.cumsum(self._page[:, 0] * blocks_per_chunk)
        self.slice_bytes = int(ends[-1])
        self._begins = (ends - self._page[:, 0] * blocks_per_chunk)[:, None]

    def describe(self, blocks: Addresses, skipped: int, slices: Addresses) -> Runs:
        """The runs between `blocks` (ids, in order) and the chunks whose slices of this rank begin at the addresses `slices`.

        skipped: leading blocks of the first chunk that are not part of the job.
        """
        if not len(blocks):
            return NOTHING
        places = np.arange(skipped, skipped + len(blocks), dtype=np.int64)
        chunks, positions = np.divmod(places, self._blocks_per_chunk)
        device = self._address + blocks.astype(np.int64) * self._step
        host = slices[chunks] + self._begins + positions * self._page
        # A run goes on where the next block follows on both sides.
        begins = np.ones(device.shape, bool)
        begins[:, 1:] = (np.diff(device) != self._page) | (np.diff(host) != self._page)
        first = np.flatnonzero(begins)
        counts = np.diff(first, append=begins.size)
        pages = np.broadcast_to(self._page, device.shape).ravel()[first]
        return Runs(device.ravel()[first], host.ravel()[first], counts * pages)
