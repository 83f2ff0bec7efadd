"""KV tensors on a GPU, an arena that another process has faulted in, and copies between the two that can be waited for."""

from __future__ import annotations

import ctypes
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from spillway.adapters.vllm.arena import PAGE_BYTES, Arena
from spillway.adapters.vllm.copier import CudaCopier, DeviceCopy
from spillway.adapters.vllm.runs import GroupPlaces, Runs, TensorPlace

MIB = 1 << 20
SECONDS = 60.0


def make_arena(path: Path, size_bytes: int) -> Arena:
    """As a sidecar does: shared memory that a process which is no engine has made and faulted in."""
    code = (
        "import sys; f = open(sys.argv[1], 'wb'); [f.write(b'\\0' * (1 << 20)) for _ in range(int(sys.argv[2]) >> 20)]"
    )
    subprocess.run([sys.executable, "-c", code, str(path), str(size_bytes)], check=True, timeout=SECONDS)
    return Arena(str(path), size_bytes)


class Caches:
    """One KV tensor per layer, `blocks` pages each, filled with random bytes. Shape of each: (blocks, page_bytes), int8."""

    def __init__(self, layers: int, blocks: int, page_bytes: int, blocks_per_chunk: int, seed: int = 0) -> None:
        generator = torch.Generator(device="cuda").manual_seed(seed)
        self.tensors = [
            torch.randint(-128, 128, (blocks, page_bytes), dtype=torch.int8, device="cuda", generator=generator)
            for _ in range(layers)
        ]
        self.blocks = blocks
        self.blocks_per_chunk = blocks_per_chunk
        self.chunk_bytes = layers * page_bytes * blocks_per_chunk
        places = [TensorPlace(tensor.data_ptr(), tensor.stride(0), page_bytes) for tensor in self.tensors]
        self._places = GroupPlaces(places, blocks_per_chunk)

    def runs(self, arena: Arena, blocks: list[int], slots: list[int], header_bytes: int = 0) -> Runs:
        """slots: each chunk's page in the arena."""
        addresses = arena.slot_addresses(slots, header_bytes + self.chunk_bytes) + header_bytes
        return self._places.describe(np.array(blocks, np.int64), 0, addresses)

    def read(self, blocks: list[int]) -> list[torch.Tensor]:
        return [tensor[blocks].cpu() for tensor in self.tensors]

    def in_arena(self, arena: Arena, slot: int) -> torch.Tensor:
        """A chunk as it lies in the arena: (layers, blocks_per_chunk, page_bytes)."""
        begin = slot * PAGE_BYTES
        held = torch.frombuffer(bytearray(ctypes.string_at(arena.address + begin, self.chunk_bytes)), dtype=torch.int8)
        return held.reshape(len(self.tensors), self.blocks_per_chunk, -1)


def store(copier: CudaCopier, runs: Runs, after: Any = None) -> DeviceCopy:
    return copier.begin(runs.device, runs.host, runs.length_bytes, after or copier.fence(), store=True)


def load(copier: CudaCopier, runs: Runs, after: Any = None) -> DeviceCopy:
    return copier.begin(runs.host, runs.device, runs.length_bytes, after or copier.fence(), store=False)


def until_over(copy: DeviceCopy, what: str) -> None:
    end = time.monotonic() + SECONDS
    while not copy.is_over():
        assert time.monotonic() < end, f"waited {SECONDS} s for {what}: {copy.problem}"
        time.sleep(0.0002)
    assert copy.problem is None, f"{what}: {copy.problem}"
