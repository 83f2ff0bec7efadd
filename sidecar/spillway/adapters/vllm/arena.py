"""This process's mapping of the arena, and plain copies between it and other host memory.

A slot's number times 4096 is its offset. Payload bytes go through `memmove` alone: the interpreter lock is free meanwhile and no
thread pool of the engine is woken.
"""

from __future__ import annotations

import ctypes
import mmap
from pathlib import Path
from typing import Final

from spillway import _core

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

    def slot_address(self, slot: int, stride_bytes: int) -> int:
        """Where a slot begins, its header first. Raises ValueError for a slot that does not lie inside."""
        offset = slot * PAGE_BYTES
        if slot < 0 or offset + stride_bytes > self.size_bytes:
            raise ValueError(f"slot {slot} of {stride_bytes} bytes does not lie in an arena of {self.size_bytes} bytes")
        return self.address + offset
