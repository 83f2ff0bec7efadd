"""What the adapter's copies reach between a GPU and the arena, beside one plain copy of as many bytes in the same round.

Needs what tests/gpu needs. The bound is a single cudaMemcpyAsync of pinned memory in one piece; rounds are interleaved, medians are given.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import torch
from rich.console import Console
from spillway.adapters.vllm.arena import PAGE_BYTES
from spillway.adapters.vllm.copier import CudaCopier

from tests.gpu.kit import Caches, load, make_arena, store, until_over

ROUNDS: Final = 15
TOTAL_BYTES: Final = 1 << 30
# (what has such pages, layers, bytes of a block in one layer, blocks of a chunk, neighbouring blocks)
SHAPES: Final = [
    ("8B dense, 16 tokens a block", 32, 64 << 10, 16, 4),
    ("8B dense, 16 tokens a block", 32, 64 << 10, 16, 1),
    ("70B dense on 8 ranks, 16 tokens a block", 80, 8 << 10, 16, 4),
    ("70B dense on 8 ranks, 16 tokens a block", 80, 8 << 10, 16, 1),
    ("MLA, 64 tokens a block", 61, 72 << 10, 4, 1),
]


def seconds_of(work: Callable[[], None]) -> float:
    torch.cuda.synchronize()
    begun = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - begun


def measure(
    name: str, layers: int, page_bytes: int, blocks_per_chunk: int, neighbours: int, *, registered: bool
) -> list[str]:
    chunk_bytes = layers * page_bytes * blocks_per_chunk
    chunks = TOTAL_BYTES // chunk_bytes
    count = chunks * blocks_per_chunk
    size = chunks * chunk_bytes
    caches = Caches(layers, count, page_bytes, blocks_per_chunk)
    pinned, device = (
        torch.empty(size, dtype=torch.int8, pin_memory=True),
        torch.empty(size, dtype=torch.int8, device="cuda"),
    )
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        arena = make_arena(Path(folder) / "arena", (size + (1 << 20)) >> 20 << 20)
        copier = CudaCopier(torch.device("cuda:0"))
        if registered:
            copier.grow(arena, arena.size_bytes)
        # An engine under load has its requests' blocks in short runs, in no order.
        order = torch.randperm(count // neighbours, generator=torch.Generator().manual_seed(0)).tolist()
        blocks = [run * neighbours + at for run in order for at in range(neighbours)]
        runs = caches.runs(arena, blocks, [at * chunk_bytes // PAGE_BYTES for at in range(chunks)])
        kinds: dict[str, Callable[[], None]] = {
            "store": lambda: until_over(store(copier, runs), "a store"),
            "store bound": lambda: _copy(pinned, device),
            "load": lambda: until_over(load(copier, runs), "a load"),
            "load bound": lambda: _copy(device, pinned),
        }
        times: dict[str, list[float]] = {kind: [] for kind in kinds}
        for _ in range(ROUNDS + 2):
            for kind, work in kinds.items():
                times[kind].append(seconds_of(work))
        copier.close()
    rows = []
    for kind in ("store", "load"):
        reached, bound = (size / statistics.median(times[key][2:]) / 1e9 for key in (kind, f"{kind} bound"))
        memory = "registered" if registered else "pageable"
        run_kib = size / len(runs.length_bytes) / 1024
        rows.append(
            f"{name:40} {kind:5} {memory:10} {len(runs.length_bytes):6} runs of {run_kib:5.0f} KiB "
            f"{reached:6.1f} GB/s of {bound:5.1f} {reached / bound:5.2f}"
        )
    return rows


def _copy(target: torch.Tensor, source: torch.Tensor) -> None:
    target.copy_(source, non_blocking=True)


def main() -> None:
    console = Console(soft_wrap=True, highlight=False)
    console.print(f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}")
    for shape in SHAPES:
        for registered in (True, False):
            for row in measure(*shape, registered=registered):
                console.print(row)


if __name__ == "__main__":
    main()
