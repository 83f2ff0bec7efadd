"""What describing one job costs the copy thread, beside one Python object per block and layer. Thread CPU time, least of several.

`python bench/describe_copy.py`: a load of 32k tokens, 80 layers, blocks of 16 tokens, chunks of 16 blocks, placed at random.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable

import numpy as np
from rich.console import Console
from spillway.adapters.vllm.runs import GroupPlaces, TensorPlace

LAYERS, BLOCKS, BLOCKS_PER_CHUNK = 80, 2048, 16
PAGE_BYTES = 16 * 2 * 8 * 128 * 2
ROUNDS = 5


def walk(places: list[TensorPlace], blocks: list[int], slices: list[int]) -> list[tuple[int, int, int]]:
    """The same runs, piece by piece."""
    runs: list[tuple[int, int, int]] = []
    for chunk, base in enumerate(slices):
        used = 0
        for place in places:
            for position, block in enumerate(blocks[chunk * BLOCKS_PER_CHUNK : (chunk + 1) * BLOCKS_PER_CHUNK]):
                device = place.address + block * place.step_bytes
                host = base + used + position * place.page_bytes
                last = runs[-1] if runs else None
                if last and last[0] + last[2] == device and last[1] + last[2] == host:
                    runs[-1] = (last[0], last[1], last[2] + place.page_bytes)
                else:
                    runs.append((device, host, place.page_bytes))
            used += BLOCKS_PER_CHUNK * place.page_bytes
    return runs


def cpu_ms(what: Callable[[], object]) -> float:
    def once() -> float:
        started = time.thread_time()
        what()
        return (time.thread_time() - started) * 1000

    return min(once() for _ in range(ROUNDS))


def main() -> None:
    generator = random.Random(0)
    places = [TensorPlace(layer << 36, PAGE_BYTES, PAGE_BYTES) for layer in range(1, LAYERS + 1)]
    blocks = generator.sample(range(4 * BLOCKS), BLOCKS)
    slices = [slot << 26 for slot in generator.sample(range(1, 1024), BLOCKS // BLOCKS_PER_CHUNK)]
    group = GroupPlaces(places, BLOCKS_PER_CHUNK)
    ids, bases = np.array(blocks), np.array(slices)
    table = group.describe(ids, 0, bases)
    assert sorted(walk(places, blocks, slices)) == sorted(zip(*(column.tolist() for column in table), strict=True))

    ours, theirs = cpu_ms(lambda: group.describe(ids, 0, bases)), cpu_ms(lambda: walk(places, blocks, slices))
    Console().print(
        f"describing a job of {BLOCKS * 16} tokens and {LAYERS} layers ({LAYERS * BLOCKS} pieces): "
        f"{ours:.1f} ms of CPU; piece by piece {theirs:.0f} ms, {theirs / ours:.0f} x"
    )


if __name__ == "__main__":
    main()
