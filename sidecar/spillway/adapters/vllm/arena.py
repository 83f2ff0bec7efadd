"""This process's mapping of the arena, and plain copies between it and other host memory.

A slot's number times 4096 is its offset. Payload bytes go through `memmove` alone: the interpreter lock is free meanwhile and no
thread pool of the engine is woken.
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np

from spillway import _core
from spillway.adapters.vllm.runs import Addresses

PAGE_BYTES: Final = _core.PAGE_BYTES
HEADER_BYTES: Final = _core.HEADER_BYTES


class Arena:
    """Map `path` whole, shared and writable. Raises OSError or ValueError when it is not there or smaller than `size_bytes`."""

    def __init__(self, path: str, size_bytes: int) -> None:
        with Path(path).open("r+b") as file:
            actual = file.seek(0, 2)
            if actual < size_bytes or size_bytes <= 0:
                raise ValueError(f"arena {path} has {actual} bytes, not {size_bytes}")
            self._map = mmap.mmap(file.fileno(), size_bytes)
        self.size_bytes = size_bytes
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self._map))

    def slot_addresses(self, slots: Sequence[int], stride_bytes: int) -> Addresses:
        """Where slots begin, each with its header first. Raises ValueError for one that does not lie inside."""
        offsets = np.array(slots, np.int64) * PAGE_BYTES
        outside = (offsets < 0) | (offsets + stride_bytes > self.size_bytes)
        if outside.any():
            slot = int(offsets[outside][0]) // PAGE_BYTES
            raise ValueError(f"slot {slot} of {stride_bytes} bytes does not lie in an arena of {self.size_bytes} bytes")
        return self.address + offsets
