"""Copies between a real GPU and the arena: whole, in the order that the engine's stream demands, and over when they are over."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from spillway import _core
from spillway.adapters.vllm import copier as copier_module
from spillway.adapters.vllm.arena import HEADER_BYTES, PAGE_BYTES, Arena
from spillway.adapters.vllm.copier import CudaCopier

from tests.gpu.kit import MIB, Caches, load, make_arena, store, until_over
from tests.unit.core.pod import Pod, keys_of
from tests.unit.core.test_nvme import options, promote

MakeCopier = Callable[[], CudaCopier]

# Of a clock of at most 2 GHz: a kernel that runs for tenths of a second.
SLEEP_CYCLES = 500_000_000


def spread(chunks: int, per_chunk: int, blocks: int, seed: int) -> list[int]:
    """Blocks as a busy engine has them: in runs, but in no order."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(blocks // 4, generator=generator)[: chunks * per_chunk // 4]
    return [int(run) * 4 + at for run in order for at in range(4)]


@pytest.fixture
def caches() -> Caches:
    return Caches(layers=32, blocks=1024, page_bytes=32 << 10, blocks_per_chunk=16)


def slots(caches: Caches, count: int) -> list[int]:
    return [at * caches.chunk_bytes // PAGE_BYTES for at in range(count)]


@pytest.mark.parametrize("registered", [True, False])
def test_what_is_stored_comes_back_in_other_blocks(
    make_copier: MakeCopier, shm: Path, caches: Caches, registered: bool
) -> None:
    arena = make_arena(shm / "arena", 256 * MIB)
    copier = make_copier()
    if registered:
        copier.grow(arena, arena.size_bytes)
        assert copier._registered_bytes == arena.size_bytes
    source, target = spread(8, 16, 1024, seed=1), spread(8, 16, 1024, seed=2)
    before = caches.read(source)
    until_over(store(copier, caches.runs(arena, source, slots(caches, 8))), "the store")
    for at in range(8):
        held = caches.in_arena(arena, slots(caches, 8)[at])
        for layer, tensor in enumerate(before):
            assert torch.equal(held[layer], tensor[at * 16 : at * 16 + 16])
    until_over(load(copier, caches.runs(arena, target, slots(caches, 8))), "the load")
    for tensor, after in zip(before, caches.read(target), strict=True):
        assert torch.equal(tensor, after)


def test_store_waits_for_the_kernels_that_fill_its_blocks(make_copier: MakeCopier, shm: Path, caches: Caches) -> None:
    arena = make_arena(shm / "arena", 64 * MIB)
    copier = make_copier()
    copier.grow(arena, arena.size_bytes)
    torch.cuda._sleep(SLEEP_CYCLES)
    for tensor in caches.tensors:
        tensor[:16] = 7
    begun = time.monotonic()
    copy = store(copier, caches.runs(arena, list(range(16)), [0]))
    assert time.monotonic() - begun < 0.1, "beginning a copy waited for the device"
    assert not copy.is_over()
    until_over(copy, "the store")
    assert bool((caches.in_arena(arena, 0) == 7).all())


def test_load_waits_for_the_kernels_that_still_read_its_blocks(
    make_copier: MakeCopier, shm: Path, caches: Caches
) -> None:
    arena = make_arena(shm / "arena", 64 * MIB)
    copier = make_copier()
    copier.grow(arena, arena.size_bytes)
    before = caches.tensors[0][:16].clone()
    torch.cuda._sleep(SLEEP_CYCLES)
    read = caches.tensors[0][:16].clone()
    until_over(load(copier, caches.runs(arena, list(range(16)), [0])), "the load")
    assert torch.equal(read, before)
    assert bool((caches.tensors[0][:16] == 0).all())


def test_engine_goes_on_beside_a_copy(make_copier: MakeCopier, shm: Path, caches: Caches) -> None:
    """The copy lies on a stream of its own: what the engine queues after it is not behind it."""
    arena = make_arena(shm / "arena", 64 * MIB)
    copier = make_copier()
    copier.grow(arena, arena.size_bytes)
    work = torch.ones(1024, device="cuda")
    (work + 1).sum()  # the first use of a kernel waits for the whole device
    torch.cuda.synchronize()
    for stream in copier._streams:
        with torch.cuda.stream(stream):
            torch.cuda._sleep(SLEEP_CYCLES)
    copy = store(copier, caches.runs(arena, list(range(16)), [0]))
    (work + 1).sum()
    done = copier.fence()
    done.synchronize()
    assert not copy.is_over()
    until_over(copy, "the store")


def test_memory_that_cannot_be_registered_is_copied_pageable(
    make_copier: MakeCopier, shm: Path, caches: Caches
) -> None:
    arena = make_arena(shm / "arena", 64 * MIB)
    first, second = (make_copier() for _ in range(2))
    first.grow(arena, arena.size_bytes)
    second.grow(arena, arena.size_bytes)  # the driver refuses what it has
    assert second._refused
    before = caches.read(list(range(16)))
    until_over(store(second, caches.runs(arena, list(range(16)), [0])), "the store")
    held = caches.in_arena(arena, 0)
    assert all(torch.equal(held[layer], tensor) for layer, tensor in enumerate(before))


@pytest.mark.parametrize("page_bytes", [2 << 10, 8 << 10, 8 << 10 | 8])
def test_scattered_small_pages_come_back(make_copier: MakeCopier, shm: Path, page_bytes: int) -> None:
    """Runs that are a kernel's to load."""
    caches = Caches(layers=16, blocks=1024, page_bytes=page_bytes, blocks_per_chunk=16)
    generator = torch.Generator().manual_seed(5)
    source, target = (torch.randperm(1024, generator=generator)[:128].tolist() for _ in range(2))
    arena = make_arena(shm / "arena", 64 * MIB)
    copier = make_copier()
    copier.grow(arena, arena.size_bytes)
    places = [at * -(-caches.chunk_bytes // PAGE_BYTES) for at in range(8)]
    before = caches.read(source)
    until_over(store(copier, caches.runs(arena, source, places)), "the store")
    runs = caches.runs(arena, target, places)
    assert copier._kernel_for(runs.length_bytes) is not None
    until_over(load(copier, runs), "the load")
    for tensor, after in zip(before, caches.read(target), strict=True):
        assert torch.equal(tensor, after)


@pytest.mark.parametrize("registered_mib", [100, 200, 256])
def test_chunks_that_cross_the_end_of_a_registration_come_back(
    make_copier: MakeCopier, shm: Path, monkeypatch: pytest.MonkeyPatch, registered_mib: int
) -> None:
    """The arena is registered in pieces, as far as the sidecar has faulted it in, and pieces end anywhere in a chunk."""
    monkeypatch.setattr(copier_module, "REGISTER_BYTES", 100 * MIB)
    caches = Caches(layers=3, blocks=1024, page_bytes=128 << 10, blocks_per_chunk=16)
    arena = make_arena(shm / "arena", 256 * MIB)
    copier = make_copier()
    copier.grow(arena, registered_mib * MIB)
    assert copier._registered_bytes == registered_mib * MIB
    count = arena.size_bytes // caches.chunk_bytes
    source = list(range(count * 16))
    before = caches.read(source)
    until_over(store(copier, caches.runs(arena, source, slots(caches, count))), "the store")
    for tensor in caches.tensors:
        tensor.zero_()
    until_over(load(copier, caches.runs(arena, source, slots(caches, count))), "the load")
    for tensor, after in zip(before, caches.read(source), strict=True):
        assert torch.equal(tensor, after)


def test_arena_mapped_where_another_was_registered_is_its_own(
    make_copier: MakeCopier, shm: Path, caches: Caches
) -> None:
    """An engine after another in one process: the driver must have forgotten the first one's pages, or it copies to those."""
    blocks = list(range(16))
    before = caches.read(blocks)
    seen: set[int] = set()
    for number in range(4):
        arena = make_arena(shm / f"arena-{number}", 64 * MIB)
        seen.add(arena.address)
        copier = make_copier()
        if number % 2 == 0:
            copier.grow(arena, arena.size_bytes)
        until_over(store(copier, caches.runs(arena, blocks, [0])), "the store")
        held = caches.in_arena(arena, 0)
        assert all(torch.equal(held[layer], tensor) for layer, tensor in enumerate(before)), f"arena {number}"
        copier.close()
        del arena, copier
    assert len(seen) < 4, "no address was used again, so this has shown nothing"


def test_mapping_outlives_a_registration_that_nobody_ended(shm: Path) -> None:
    copier = CudaCopier(torch.device("cuda:0"))
    first = make_arena(shm / "first", 64 * MIB)
    copier.grow(first, first.size_bytes)
    address = first.address
    del first
    second = make_arena(shm / "second", 64 * MIB)
    assert second.address != address
    copier.close()


def test_chunks_come_back_from_nvme_into_a_gpu(make_copier: MakeCopier, root: Path, caches: Caches) -> None:
    """HBM -> DRAM -> NVMe -> DRAM -> HBM, through the real plane: verified, evicted, read, verified."""
    pod = Pod(root, nvme=options(512), arena_mib=256)
    try:
        pod.until("the scan", lambda: pod.plane.stats().nvme.scan_done)
        engine = pod.attach([[caches.chunk_bytes]])
        arena = Arena(str(root / "arena/arena"), 256 * MIB)
        copier = make_copier()
        copier.grow(arena, engine.scheduler.faulted_bytes())
        count, numbers = 4, range(4)
        source, target = spread(count, 16, 1024, seed=3), spread(count, 16, 1024, seed=4)
        before = caches.read(source)
        leased = pod.lease(engine, count)
        until_over(store(copier, caches.runs(arena, source, leased, HEADER_BYTES)), "the store")
        assert engine.scheduler.publish(keys_of(numbers), 0, struct.pack(f"{count}i", *leased)) == count
        pod.until("publication", lambda: pod.lookup(engine, numbers) == bytes([_core.HIT]) * count)
        keys = [pod.key16(number) for number in numbers]
        assert pod.plane.write(keys) == [True] * count
        pod.until("the writes", lambda: len(pod.seen(_core.Written)) == count)
        assert all(pod.plane.evict_dram(keys))
        pod.until("recycling", lambda: pod.plane.stats().recycling_slots == 0)
        promote(pod, engine, numbers)
        ticket, found = pod.pin(engine, numbers)
        until_over(load(copier, caches.runs(arena, target, list(found), HEADER_BYTES)), "the load")
        engine.ranks[0].ack(ticket)
        for tensor, after in zip(before, caches.read(target), strict=True):
            assert torch.equal(tensor, after)
        engine.close()
    finally:
        pod.plane.close()
