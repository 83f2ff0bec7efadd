"""A daemon ends, its successor opens the same files: chunks go on hitting, leases and tickets stay, doubtful slots wait."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest
from spillway import _core

from .pod import MIB, Pod, key_of, keys_of, payload_of

HIT = bytes([_core.HIT])


def test_chunks_hit_while_nobody_serves_and_after(pod: Pod) -> None:
    engine = pod.attach()
    pod.store(engine, range(4))
    pod.plane.close()
    assert pod.lookup(engine, range(4)) == HIT * 4
    pod.plane = pod.open()
    report = pod.plane.report()
    assert (report.adopted, report.adopted_chunks, report.engines_kept, report.repaired_entries) == (
        True,
        4,
        1,
        0,
    )
    assert pod.load(engine, range(4)) == [payload_of(number, engine.length) for number in range(4)]
    pod.store(engine, range(4, 8))


def test_a_successor_tells_what_survived_least_recent_first(pod: Pod) -> None:
    engine = pod.attach()
    pod.store(engine, range(3))
    engine.scheduler.use(keys_of(range(1)))
    pod.until("the use", lambda: pod.seen(_core.Used))
    pod.restart()
    pod.turn()
    told = [(event.key, event.tiers) for event in pod.seen(_core.Adopted)]
    assert told == [(pod.key16(number), _core.TIER_DRAM) for number in (1, 2, 0)]


def test_leases_and_grants_of_a_living_engine_stay(pod: Pod) -> None:
    engine = pod.attach()
    held = pod.lease(engine, 2)
    leased = pod.plane.stats().leases_out
    pod.restart()
    assert pod.plane.stats().leases_out == leased
    engine.scheduler.publish(keys_of(range(2)), 0, struct.pack("2i", *held))
    pod.until("publication", lambda: pod.lookup(engine, range(2)) == HIT * 2)


def test_what_was_published_to_a_dead_daemon_is_served_by_the_next(pod: Pod) -> None:
    engine = pod.attach()
    (slot,) = pod.lease(engine, 1)
    pod.plane.close()
    engine.scheduler.publish(key_of(5), 0, struct.pack("i", slot))
    pod.plane = pod.open()
    pod.until("publication", lambda: pod.lookup(engine, range(5, 6)) == HIT)


def test_an_unlinked_slot_of_a_dead_daemon_stays_pinned(pod: Pod) -> None:
    engine = pod.attach()
    pod.store(engine, range(1))
    ticket, _slots = pod.pin(engine, range(1))
    pod.plane.evict_dram([pod.key16(0)])
    pod.restart()
    for _ in range(5):
        pod.turn()
    assert pod.plane.stats().recycling_slots == 1
    for rank in engine.ranks:
        rank.ack(ticket)
    pod.until("recycling", lambda: pod.plane.stats().recycling_slots == 0)


def mark_slot(root: Path, slot: int, state: int) -> None:
    """Put a slot's record into a state, as a dead daemon would have left it."""
    with (root / "index/index").open("r+b") as file:
        slots_offset = struct.unpack_from("<Q", file.read(176), 104)[0]
        at = slots_offset + slot * _core.PAGE_BYTES // 65536 * 16
        file.seek(at)
        record = bytearray(file.read(16))
        record[0] = state
        file.seek(at)
        file.write(record)


def test_a_foreign_reading_slot_is_quarantined_until_the_device_has_timed_out(root: Path) -> None:
    pod = Pod(root, foreign_read_quarantine_seconds=1.0)
    engine = pod.attach()
    (slot,) = pod.store(engine, range(1))
    pod.plane.evict_dram([pod.key16(0)])
    pod.until("recycling", lambda: pod.plane.stats().recycling_slots == 0)
    pod.plane.close()
    mark_slot(root, slot, 3)
    pod.plane = pod.open()
    assert pod.plane.report().quarantined_slots == 1
    free = pod.plane.room()[0].dram_free
    pod.until("the end of the quarantine", lambda: pod.plane.stats().quarantined_slots == 0)
    assert pod.plane.room()[0].dram_free == free + 1
    pod.plane.close()


def test_there_is_one_writer(pod: Pod) -> None:
    with pytest.raises(_core.PlaneBusy, match="held by another daemon"):
        _core.Plane.open(str(pod.root), 64 * MIB, 4 * MIB, lock_wait_seconds=0.05)


def test_a_damaged_index_is_replaced_and_its_engines_stay_cold(pod: Pod) -> None:
    engine = pod.attach()
    pod.store(engine, range(1))
    pod.plane.close()
    with (pod.root / "index/index").open("r+b") as file:
        file.seek(8)
        file.write((99).to_bytes(4, "little"))
    pod.plane = pod.open()
    assert not pod.plane.report().adopted
    assert "ABI 99" in str(pod.plane.report().reason)
    assert pod.lookup(engine, range(1)) == bytes([_core.MISS])
    assert engine.scheduler.state() == (_core.STATE_REFUSED, _core.REFUSED_STALE)
    pod.store(pod.attach(), range(1))


def test_a_lost_arena_means_a_cold_start(pod: Pod) -> None:
    pod.store(pod.attach(), range(1))
    pod.plane.close()
    os.truncate(pod.root / "arena/arena", 4096)
    pod.plane = pod.open()
    assert not pod.plane.report().adopted
    assert pod.plane.stats().tiers["dram"].chunks == 0


def test_a_replaced_index_gives_its_memory_back_while_engines_still_map_it(pod: Pod) -> None:
    """The volume has room for one index: what the old one kept would be missing for the new one."""
    engine = pod.attach()
    pod.store(engine, range(1))
    pod.plane.close()
    with (pod.root / "index/index").open("rb") as old:
        assert os.fstat(old.fileno()).st_blocks * 512 > MIB
        os.truncate(pod.root / "arena/arena", 4096)
        pod.plane = pod.open()
        assert os.fstat(old.fileno()).st_blocks * 512 <= 2 * _core.PAGE_BYTES
        assert pod.lookup(engine, range(1)) == bytes([_core.MISS])


def test_opening_that_fails_again_and_again_keeps_no_more_descriptors(pod: Pod) -> None:
    engine = pod.attach()
    pod.plane.close()
    (pod.root / "arena").rename(pod.root / "elsewhere")
    (pod.root / "arena").touch()
    open_descriptors: list[int] = []
    for _ in range(3):
        with pytest.raises(_core.PlaneError, match="arena"):
            pod.open()
        open_descriptors.append(len(list(Path("/proc/self/fd").iterdir())))
    assert len(set(open_descriptors)) == 1
    (pod.root / "arena").unlink()
    (pod.root / "elsewhere").rename(pod.root / "arena")
    pod.plane = pod.open()
    engine.close()


def test_a_truncated_arena_is_withdrawn_while_serving(pod: Pod) -> None:
    engine = pod.attach()
    pod.store(engine, range(1))
    leases = pod.lease(engine, 1)
    os.truncate(pod.root / "arena/arena", 0)
    engine.scheduler.publish(key_of(1), 0, struct.pack("i", *leases))
    pod.until("the withdrawal", lambda: pod.plane.stats().arena_poisoned)
    assert pod.lookup(engine, range(1)) == bytes([_core.MISS])
    assert pod.plane.grant([(0, 0, 1)]) == [0]


def test_too_small_an_index_says_what_it_needs(tmp_path: Path) -> None:
    with pytest.raises(_core.PlaneError, match="needs at least"):
        _core.Plane.open(str(tmp_path), 64 * MIB, 4096)
