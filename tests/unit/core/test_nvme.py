"""A chunk's way to NVMe and back: only what was verified is HIT, damage is found, counted and never served."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from spillway import _core

from .pod import MIB, Engine, Pod, forget_memory, key_of, keys_of, payload_of, root_on

HIT, MISS, NVME = bytes([_core.HIT]), bytes([_core.MISS]), bytes([_core.NVME])
PAGE = 4096


def options(capacity_mib: int = 256, **kwargs: object) -> _core.NvmeOptions:
    return _core.NvmeOptions(capacity_bytes=capacity_mib * MIB, io_threads=2, deadline_ms=5000, **kwargs)  # type: ignore[arg-type]


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """The pod's volume."""
    return tmp_path / "nvme"


@pytest.fixture
def nvme_pod(tmp_path: Path) -> Iterator[Pod]:
    with root_on(tmp_path) as root:
        pod = Pod(root, nvme=options(), dead_grace_seconds=0.3)
        assert pod.plane.report().nvme.state != _core.NVME_OFF, pod.plane.report().nvme.message
        pod.until("the scan", lambda: pod.plane.stats().nvme.scan_done)
        yield pod
        pod.plane.close()


def demote(pod: Pod, engine: Engine, numbers: range) -> None:
    """Store, write, drop from DRAM: what is left is on NVMe alone."""
    pod.store(engine, numbers)
    keys = [pod.key16(number) for number in numbers]
    assert pod.plane.write(keys) == [True] * len(keys)
    pod.until("the writes", lambda: len(pod.seen(_core.Written)) == len(keys))
    assert {event.outcome for event in pod.seen(_core.Written)} == {_core.OUT_OK}
    assert all(pod.plane.evict_dram(keys))
    pod.until("recycling", lambda: pod.plane.stats().recycling_slots == 0)
    assert pod.lookup(engine, numbers) == NVME * len(numbers)


def promote(pod: Pod, engine: Engine, numbers: range) -> list[int]:
    """Ask for chunks and read them as the daemon would; the outcomes in the order of the keys."""
    before = len(pod.seen(_core.Read))
    assert engine.scheduler.promote(keys_of(numbers), 0, 5000) == len(numbers)
    pod.until(
        "the wishes",
        lambda: {event.key for event in pod.seen(_core.Promote)} >= {pod.key16(number) for number in numbers},
    )
    assert pod.plane.read([pod.key16(number) for number in numbers]) == [True] * len(numbers)
    pod.until("the reads", lambda: len(pod.seen(_core.Read)) == before + len(numbers))
    outcomes = {event.key: event.outcome for event in pod.seen(_core.Read)[before:]}
    return [outcomes[pod.key16(number)] for number in numbers]


def new_pod(pod: Pod) -> None:
    """The pod goes, the disk stays."""
    pod.plane.close()
    forget_memory(pod.root)
    pod.events.clear()
    pod.plane = pod.open()
    pod.until("the scan", lambda: pod.plane.stats().nvme.scan_done)


def chunks_file(disk: Path) -> Path:
    return disk / "slot-0/chunks"


def offset_of(disk: Path, number: int) -> int:
    """Where a chunk's header lies on the disk."""
    data = chunks_file(disk).read_bytes()
    at = data.find(b"SPWCHNK1")
    while at >= 0:
        if at % PAGE == 0 and data[at + 32 : at + 68] == key_of(number):
            return at
        at = data.find(b"SPWCHNK1", at + 1)
    raise AssertionError(f"chunk {number} is not on the disk")


def flip(disk: Path, at: int) -> None:
    with chunks_file(disk).open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 0x40]))


def test_a_chunk_comes_back_byte_for_byte(nvme_pod: Pod) -> None:
    engine = nvme_pod.attach()
    demote(nvme_pod, engine, range(6))
    assert promote(nvme_pod, engine, range(6)) == [_core.OUT_OK] * 6
    assert nvme_pod.load(engine, range(6)) == [payload_of(number, engine.length) for number in range(6)]
    hops = nvme_pod.plane.stats().hop_bytes
    assert hops["arena_to_nvme"] == hops["nvme_to_arena"] == 6 * engine.length


def test_a_new_pod_finds_what_the_disk_holds(nvme_pod: Pod) -> None:
    demote(nvme_pod, nvme_pod.attach(), range(6))
    new_pod(nvme_pod)
    assert nvme_pod.plane.report().nvme.adopted
    assert {event.key for event in nvme_pod.seen(_core.Scanned)} == {nvme_pod.key16(number) for number in range(6)}
    engine = nvme_pod.attach()
    assert nvme_pod.lookup(engine, range(6)) == NVME * 6
    assert promote(nvme_pod, engine, range(6)) == [_core.OUT_OK] * 6
    assert nvme_pod.load(engine, range(6)) == [payload_of(number, engine.length) for number in range(6)]


def test_a_successor_keeps_the_nvme_entries_of_a_surviving_index(nvme_pod: Pod) -> None:
    engine = nvme_pod.attach()
    demote(nvme_pod, engine, range(4))
    nvme_pod.restart()
    assert nvme_pod.plane.report().nvme.state == _core.NVME_ACTIVE
    assert nvme_pod.lookup(engine, range(4)) == NVME * 4
    assert promote(nvme_pod, engine, range(4)) == [_core.OUT_OK] * 4


def test_each_kind_of_damage_is_found_and_counted_once(nvme_pod: Pod, disk: Path) -> None:
    engine = nvme_pod.attach()
    demote(nvme_pod, engine, range(4))
    flip(disk, offset_of(disk, 0) + PAGE + 1000)
    flip(disk, offset_of(disk, 1) + 40)
    stride = engine.scheduler.geometry()[0][0]  # type: ignore[index]
    data = chunks_file(disk).read_bytes()
    source, target = offset_of(disk, 3), offset_of(disk, 2)
    with chunks_file(disk).open("r+b") as file:
        file.seek(target)
        file.write(data[source : source + stride])
    outcomes = promote(nvme_pod, engine, range(4))
    assert outcomes == [_core.OUT_CORRUPT_PAYLOAD, _core.OUT_CORRUPT_HEADER, _core.OUT_WRONG_KEY, _core.OUT_OK]
    assert nvme_pod.lookup(engine, range(4)) == MISS * 3 + HIT
    quarantined = nvme_pod.plane.stats().quarantined
    assert sum(quarantined.values()) == 3, quarantined
    assert nvme_pod.load(engine, range(3, 4)) == [payload_of(3, engine.length)]


def test_damage_is_found_after_adoption_too(nvme_pod: Pod, disk: Path) -> None:
    demote(nvme_pod, nvme_pod.attach(), range(3))
    nvme_pod.plane.close()
    flip(disk, offset_of(disk, 0) + PAGE + 1000)
    new_pod(nvme_pod)
    engine = nvme_pod.attach()
    assert promote(nvme_pod, engine, range(3)) == [_core.OUT_CORRUPT_PAYLOAD, _core.OUT_OK, _core.OUT_OK]
    assert nvme_pod.lookup(engine, range(1)) == MISS


def test_what_was_evicted_from_nvme_is_gone(nvme_pod: Pod) -> None:
    engine = nvme_pod.attach()
    demote(nvme_pod, engine, range(2))
    assert nvme_pod.plane.evict_nvme([nvme_pod.key16(0)]) == [True]
    assert nvme_pod.lookup(engine, range(2)) == MISS + NVME
    assert nvme_pod.plane.read([nvme_pod.key16(0)]) == [False]


def test_a_chunk_written_over_in_dram_never_comes_back(nvme_pod: Pod) -> None:
    """It is hashed when it is published and when it is read, not when it is written."""
    engine = nvme_pod.attach()
    (slot,) = nvme_pod.store(engine, range(1))
    with engine.arena() as arena:
        arena[slot * PAGE + 2 * PAGE] ^= 1
    key = [nvme_pod.key16(0)]
    assert nvme_pod.plane.write(key) == [True]
    nvme_pod.until("the write", lambda: nvme_pod.seen(_core.Written))
    assert all(nvme_pod.plane.evict_dram(key))
    nvme_pod.until("recycling", lambda: nvme_pod.plane.stats().recycling_slots == 0)
    assert promote(nvme_pod, engine, range(1)) == [_core.OUT_CORRUPT_PAYLOAD]
    assert nvme_pod.seen(_core.Quarantined)
    assert nvme_pod.lookup(engine, range(1)) == MISS


def test_a_chunk_stored_again_is_not_written_again(nvme_pod: Pod) -> None:
    engine = nvme_pod.attach()
    demote(nvme_pod, engine, range(1))
    nvme_pod.store(engine, range(1))
    assert nvme_pod.plane.tiers([nvme_pod.key16(0)]) == bytes([_core.TIER_DRAM | _core.TIER_NVME])
    assert nvme_pod.plane.write([nvme_pod.key16(0)]) == [False]


def test_an_unusable_volume_leaves_dram_working(root: Path) -> None:
    (root / "nvme").write_bytes(b"no folder")
    pod = Pod(root, nvme=options())
    nvme = pod.plane.report().nvme
    assert nvme.state == _core.NVME_OFF
    assert nvme.reason and nvme.message
    engine = pod.attach()
    pod.store(engine, range(1))
    assert pod.plane.write([pod.key16(0)]) == [False]
    pod.plane.close()
