"""The table of a job moves the bytes that a walk over its blocks would, in fewer pieces."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from spillway.adapters.vllm.runs import GroupPlaces, Runs, TensorPlace, join

TENSOR_STEP = 1 << 20
SLOT_STEP = 1 << 30


def walk(
    places: list[TensorPlace], per_chunk: int, blocks: list[int], skipped: int, slices: list[int]
) -> dict[int, int]:
    """Device address -> host address of every byte, block by block."""
    moved: dict[int, int] = {}
    for at, block in enumerate(blocks, skipped):
        chunk, position = divmod(at, per_chunk)
        used = 0
        for place in places:
            for byte in range(place.page_bytes):
                device = place.address + block * place.step_bytes + byte
                moved[device] = slices[chunk] + used + position * place.page_bytes + byte
            used += per_chunk * place.page_bytes
    return moved


def expand(runs: Runs) -> dict[int, int]:
    return {
        device + byte: host + byte
        for device, host, length in zip(*(column.tolist() for column in runs), strict=True)
        for byte in range(length)
    }


@given(st.data())
def test_table_moves_the_bytes_of_every_block_to_its_place(data: st.DataObject) -> None:
    per_chunk = data.draw(st.integers(1, 5))
    pages = data.draw(st.lists(st.integers(1, 6), min_size=1, max_size=4))
    padding = data.draw(st.integers(0, 2))
    places = [TensorPlace(at * TENSOR_STEP, page + padding, page) for at, page in enumerate(pages, 1)]
    blocks = data.draw(st.lists(st.integers(0, 30), min_size=1, max_size=12, unique=True))
    skipped = data.draw(st.integers(0, per_chunk - 1))
    chunks = -(-(len(blocks) + skipped) // per_chunk)
    slices = [SLOT_STEP * (slot + 1) for slot in data.draw(st.permutations(range(chunks)))]

    group = GroupPlaces(places, per_chunk)
    runs = group.describe(np.array(blocks), skipped, np.array(slices))

    assert expand(runs) == walk(places, per_chunk, blocks, skipped, slices)
    assert runs.size_bytes == len(blocks) * sum(pages)
    assert group.slice_bytes == per_chunk * sum(pages)


def test_consecutive_blocks_of_a_chunk_are_one_run() -> None:
    group = GroupPlaces([TensorPlace(1000, 8, 8), TensorPlace(5000, 8, 8)], blocks_per_chunk=4)
    runs = group.describe(np.array([2, 3, 4, 9]), 0, np.array([1 << 20]))
    assert runs.length_bytes.tolist() == [24, 8, 24, 8]
    assert runs.device.tolist() == [1016, 1072, 5016, 5072]
    assert runs.host.tolist() == [(1 << 20) + at for at in (0, 24, 32, 56)]


def test_nothing_to_copy_is_an_empty_table() -> None:
    group = GroupPlaces([TensorPlace(0, 8, 8)], blocks_per_chunk=4)
    empty = group.describe(np.array([], np.int64), 0, np.array([], np.int64))
    assert join([empty, empty]).size_bytes == 0
    assert join([]).size_bytes == 0
