"""The loop between core and policy, on a real plane with a disk."""

from __future__ import annotations

import contextlib
import resource
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from spillway import _core
from spillway.daemon import loop as loop_module
from spillway.daemon.loop import Loop
from spillway.policy import planner

from tests.unit.core.pod import MIB, Engine, Pod, forget_memory, key_of, keys_of, root_on

CHUNKS = range(100)
NVME_ONLY = bytes([_core.TIER_NVME]) * len(CHUNKS)
BOTH = bytes([_core.TIER_DRAM | _core.TIER_NVME]) * len(CHUNKS)
# Geometry, header page and extent table of a store, then whole extents.
STORE_HEAD_BYTES = MIB


def disk_of(extents: int, io_threads: int = 2) -> _core.NvmeOptions:
    """A tier of whole extents whose I/O is never late."""
    return _core.NvmeOptions(
        capacity_bytes=STORE_HEAD_BYTES + extents * _core.EXTENT_BYTES, io_threads=io_threads, deadline_ms=5000
    )


class LoopedPod(Pod):
    """A pod whose plane is turned by the daemon's loop."""

    def open(self) -> _core.Plane:
        plane = super().open()
        self.loop = Loop(plane)
        return plane

    def turn(self) -> list[_core.Event]:
        self.loop.turn(timeout_ms=5)
        return []

    def on_nvme(self, numbers: range) -> int:
        """How many of the chunks NVMe holds."""
        tiers = self.plane.tiers([self.key16(number) for number in numbers])
        return sum(bool(bits & _core.TIER_NVME) for bits in tiers)


@contextlib.contextmanager
def writes_of_this_process_fail() -> Iterator[None]:
    """Beyond the first page of any file; what is mapped can still be written."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (_core.PAGE_BYTES, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    with root_on(tmp_path) as root:
        yield root


def turn_until(loop: Loop, what: str, done: Callable[[], bool], seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, f"waited {seconds} s for {what}"
        loop.turn(timeout_ms=5)


def test_chunk_that_several_requests_promote_counts_once(tmp_path: Path) -> None:
    """Requests with a common prefix name its chunks several times. Each is read once, and so takes its share once."""
    with root_on(tmp_path) as root:
        pod = Pod(root, nvme=_core.NvmeOptions(capacity_bytes=128 << 20, io_threads=2, deadline_ms=5000))
        pod.until("the scan", lambda: pod.plane.stats().nvme.scan_done)
        engine = pod.attach()
        pod.store(engine, CHUNKS)
        keys = [pod.key16(number) for number in CHUNKS]
        loop = Loop(pod.plane)
        pod.until("writing", lambda: pod.plane.write(keys) and pod.plane.tiers(keys) == BOTH)
        stride = pod.plane.room()[0].stride_bytes
        rounds = pod.arena_mib * (1 << 20) // stride // len(CHUNKS) + 1
        at_once: list[int] = []

        def promoted() -> bool:
            # The plane forgets a read when it is polled, so between turns this is what the last turn left on its way.
            at_once.append(pod.plane.stats().reads_in_flight)
            return pod.plane.tiers(keys) == BOTH

        for _ in range(rounds):
            at_once.clear()
            assert all(pod.plane.evict_dram(keys))
            turn_until(loop, "demotion", lambda: pod.plane.tiers(keys) == NVME_ONLY)
            for _request in range(3):
                engine.scheduler.promote(keys_of(CHUNKS), 0, 5000)
            turn_until(loop, "promotion", promoted)
            assert max(at_once) > len(CHUNKS) // 2, "the share is used up by reads that ended long ago"
        engine.close()
        pod.plane.close()


def test_disk_that_an_earlier_model_filled_goes_over_to_the_new_one(root: Path) -> None:
    """Extent by extent. Strides differ, so no slot of the one model fits a chunk of the other."""
    disk = disk_of(2)
    pod = LoopedPod(root, nvme=disk, arena_mib=128, dead_grace_seconds=0.1)
    old = pod.attach([[4_000_000]])
    stored = [range(first, first + 8) for first in range(0, 32, 8)]
    for numbers in stored:
        pod.store(old, numbers)
        pod.until("writing", lambda numbers=numbers: pod.on_nvme(numbers) == len(numbers))
    assert pod.plane.room()[0].nvme_free == 0, "the disk is not full"
    old.close()
    pod.plane.close()
    forget_memory(root)

    pod.plane = pod.open()
    pod.until("the scan", lambda: pod.on_nvme(range(32)) == 32)
    new = pod.attach([[2_000_000]])
    pod.store(new, range(100, 108))
    pod.until("writing", lambda: pod.on_nvme(range(100, 108)) == 8)
    assert sorted([pod.on_nvme(range(16)), pod.on_nvme(range(16, 32))]) == [0, 16], "not one whole extent left"
    assert pod.loop.evicted["nvme"] == 16
    new.close()
    pod.plane.close()


def test_chunks_that_leave_dram_while_the_disk_is_broken_are_counted_and_the_others_written_after(root: Path) -> None:
    disk = disk_of(2)
    pod = LoopedPod(root, nvme=disk, arena_mib=192, dead_grace_seconds=0.1)
    engine = pod.attach([[4_000_000]])
    pod.until("the arena", lambda: pod.plane.stats().faulted_bytes == 192 * MIB)
    with writes_of_this_process_fail():
        for first in range(0, 96, 8):
            pod.store(engine, range(first, first + 8))
        assert pod.plane.stats().nvme.breaker_openings > 0
    assert 0 < pod.loop.unwritten_evictions == pod.loop.evicted["dram"]
    in_dram = [number for number in range(96) if pod.plane.tiers([pod.key16(number)])[0] & _core.TIER_DRAM]
    assert len(in_dram) > 24
    newest = range(in_dram[-1] - 7, in_dram[-1] + 1)
    pod.until("the tier to come back and what waited to be written", lambda: pod.on_nvme(newest) == len(newest), 30)
    engine.close()
    pod.plane.close()


def test_disk_that_is_slower_than_the_engine_does_not_hold_up_evictions(root: Path) -> None:
    """What is being written cannot leave DRAM. Nothing completes here, because nobody polls between the stores."""
    disk = disk_of(4, io_threads=1)
    pod = LoopedPod(root, nvme=disk, arena_mib=192, dead_grace_seconds=0.1)
    engine = pod.attach([[4_000_000]])
    most = 0
    for first in range(0, 96, 8):
        pod.store(engine, range(first, first + 8))
        most = max(most, pod.plane.stats().writes_in_flight)
    assert most <= pod.plane.room()[0].dram_total // 4
    engine.close()
    pod.plane.close()


def test_chunks_that_left_before_the_daemon_heard_of_them_do_not_stop_its_writes(root: Path) -> None:
    """After a restart the core tells of its chunks in batches. The first extents change hands before the last batch came."""
    disk = disk_of(3)
    pod = Pod(root, nvme=disk, arena_mib=512, dead_grace_seconds=0.1)
    pod.until("the scan", lambda: pod.plane.stats().nvme.scan_done)
    small, large = pod.attach([[60_000]]), pod.attach([[2_000_000]])
    on_disk = 3 * (_core.EXTENT_BYTES // pod.plane.room()[0].stride_bytes)
    for first in range(0, on_disk, 256):
        numbers = range(first, min(first + 256, on_disk))
        pod.store(small, numbers)
        keys = [pod.key16(number) for number in numbers]
        pod.plane.write(keys)
        pod.until("writing", lambda keys=keys: all(bits & _core.TIER_NVME for bits in pod.plane.tiers(keys)))
    pod.store(large, range(9000, 9001))
    # The chunk of the other class and some of the small ones are told of first, the rest of their extent later.
    for first in range(1024, on_disk, 512):
        small.scheduler.use(keys_of(range(first, min(first + 512, on_disk))))
        pod.turn()
    small.scheduler.use(keys_of(range(100, 1024)))
    pod.turn()
    pod.plane.close()

    successor = LoopedPod(root, nvme=disk, arena_mib=512, dead_grace_seconds=0.1)
    successor.until("the other class to get an extent", lambda: successor.on_nvme(range(9000, 9001)) == 1)
    for first in range(10_000, 13_000, 250):
        numbers = range(first, first + 250)
        successor.store(small, numbers)
        successor.until("writing", lambda numbers=numbers: successor.on_nvme(numbers) == len(numbers))
    for engine in (small, large):
        engine.close()
    successor.plane.close()


def test_flush_waits_for_slow_writes_and_not_for_room_that_does_not_come(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chunks so large that each is written for longer than a stall may take, were a slow write taken for one."""
    monkeypatch.setattr(loop_module, "FLUSH_STALL_SECONDS", 0.05)
    pod = Pod(root, nvme=disk_of(6), arena_mib=1024, dead_grace_seconds=0.1)
    engine = pod.attach([[60_000_000]])
    pod.store(engine, range(6))
    engine.close()
    pod.plane.close()

    successor = LoopedPod(root, nvme=disk_of(6), arena_mib=1024, dead_grace_seconds=0.1)
    successor.until("the first writes", lambda: successor.plane.stats().writes_in_flight)
    successor.loop.flush(120.0)  # 360 MB on whatever disk that is, busy or not
    assert successor.on_nvme(range(6)) == 6
    successor.plane.close()


def test_without_a_disk_no_chunk_counts_as_unwritten(root: Path) -> None:
    pod = LoopedPod(root, arena_mib=192, dead_grace_seconds=0.1)
    engine = pod.attach([[4_000_000]])
    for first in range(0, 96, 8):
        pod.store(engine, range(first, first + 8))
    assert pod.loop.evicted["dram"] > 0
    assert pod.loop.unwritten_evictions == 0
    engine.close()
    pod.plane.close()


def test_leases_that_an_engine_asked_for_in_a_burst_do_not_stay_with_it(root: Path) -> None:
    """An engine re-offers what it found no slot for at every step. Its wishes add up; what it is given must not."""
    pod = LoopedPod(root, arena_mib=192, dead_grace_seconds=0.1)
    pod.until("the arena", lambda: pod.plane.stats().faulted_bytes == 192 * MIB)
    engine = pod.attach([[1_000_000]])
    slots = pod.plane.report().arena_bytes // pod.plane.room()[0].stride_bytes
    for first in range(0, slots, 16):
        pod.store(engine, range(first, first + 16))
    for _step in range(40):
        engine.scheduler.release(0, engine.scheduler.lease(0, 32))
    for _turn in range(20):
        pod.turn()
    assert engine.scheduler.granted(0) <= slots // planner.IDLE_LEASE_SHARE
    assert pod.plane.stats().tiers["dram"].chunks > slots // 2
    second = pod.attach([[1_000_000]])
    pod.store(second, range(1000, 1008))
    for end in (engine, second):
        end.close()
    pod.plane.close()


def full_pod(root: Path, nvme: _core.NvmeOptions | None = None) -> tuple[LoopedPod, Engine, int]:
    """An arena of some 180 slots full of chunks, all older than what the test does; the number of chunks stored."""
    pod = LoopedPod(root, nvme=nvme, arena_mib=192, dead_grace_seconds=0.1)
    pod.until("the arena", lambda: pod.plane.stats().faulted_bytes == 192 * MIB)
    engine = pod.attach([[1_000_000]])
    slots = pod.plane.room()[0].dram_total
    for first in range(0, slots, 16):
        pod.store(engine, range(first, first + 16))
    return pod, engine, slots


def dram_chunks(pod: Pod) -> int:
    return pod.plane.stats().tiers["dram"].chunks


def test_burst_of_offers_costs_the_cache_no_more_than_the_chunks_that_were_stored(root: Path) -> None:
    pod, engine, slots = full_pod(root)
    for _turn in range(20):
        pod.turn()
    before = dram_chunks(pod)
    taken = engine.scheduler.lease(0, 200)
    assert 0 < len(taken) // 4 < 200
    numbers = range(slots + 100, slots + 100 + len(taken) // 4)
    assert engine.scheduler.publish(keys_of(numbers), 0, taken) == len(numbers)
    for _turn in range(20):
        pod.turn()
    assert pod.lookup(engine, numbers) == bytes([_core.HIT]) * len(numbers)
    assert dram_chunks(pod) >= before
    engine.close()
    pod.plane.close()


def test_engine_that_gives_no_lease_back_leaves_the_cache_and_the_other_engine_theirs(root: Path) -> None:
    pod, engine, slots = full_pod(root)
    for _step in range(60):
        engine.scheduler.lease(0, 32)
        pod.turn()
    assert pod.plane.stats().leases_out <= slots // planner.LEASE_CAP_SHARE
    assert dram_chunks(pod) >= slots // 3
    second = pod.attach([[1_000_000]])
    pod.store(second, range(1000, 1008))
    for end in (engine, second):
        end.close()
    pod.plane.close()


def test_head_that_a_request_holds_survives_the_promotion_of_its_tail(root: Path) -> None:
    """24 chunks in DRAM under a ticket, 24 on NVMe, and an arena full of chunks that were used later than either."""
    pod = LoopedPod(root, nvme=disk_of(6), arena_mib=192, dead_grace_seconds=0.1)
    pod.until("the arena", lambda: pod.plane.stats().faulted_bytes == 192 * MIB)
    engine = pod.attach([[1_000_000]])
    head, tail = range(24), range(24, 48)
    for first in range(0, 48, 16):
        pod.store(engine, range(first, first + 16))
    pod.until("writing", lambda: pod.on_nvme(range(48)) == 48)
    assert all(pod.plane.evict_dram([pod.key16(number) for number in tail]))
    pod.until("recycling", lambda: pod.plane.stats().recycling_slots == 0)
    ticket, _slots = pod.pin(engine, head)
    for first in range(100, 100 + pod.plane.room()[0].dram_total, 16):
        pod.store(engine, range(first, first + 16))
    engine.scheduler.promote(keys_of(tail), 0, 5000)
    whole = bytes([_core.HIT]) * 48
    pod.until("the whole prefix", lambda: pod.lookup(engine, range(48)) == whole)
    for rank in engine.ranks:
        rank.ack(ticket)
    engine.close()
    pod.plane.close()


def test_event_of_an_unknown_kind_is_an_error(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A core that is newer than its daemon must not be misunderstood in silence."""

    class Newer:
        """A kind that no `case` names."""

    pod = LoopedPod(root)

    class PlaneOfANewerCore:
        def poll(self, _timeout_ms: int) -> list[Newer]:
            return [Newer()]

    monkeypatch.setattr(pod.loop, "_plane", PlaneOfANewerCore())
    with pytest.raises(AssertionError, match="Newer"):
        pod.loop.turn(0)
    pod.plane.close()


def test_arena_that_an_earlier_model_filled_goes_over_to_the_next_one(root: Path) -> None:
    """Without a restart and without a disk: the strides differ, so no slot of the one model fits a chunk of the other."""
    pod, old, slots = full_pod(root)
    old.close()
    pod.until("the first one's end", lambda: not pod.plane.stats().engines)
    assert dram_chunks(pod) > slots // 2, "what it stored stays while nobody needs the room"
    new = pod.attach([[2_000_000]])
    (class_id,) = {account.class_id for account in pod.plane.lease_accounts()}
    whole = 3 * (_core.EXTENT_BYTES // 2_007_040)
    for first in range(1000, 1000 + 3 * whole, 8):
        pod.store(new, range(first, first + 8))
    room = next(room for room in pod.plane.room() if room.class_id == class_id)
    assert room.dram_total == whole, "an extent stayed with the model that left"
    newest = range(1000 + 3 * whole - 64, 1000 + 3 * whole)
    assert pod.lookup(new, newest) == bytes([_core.HIT]) * 64
    pod.until("the end of the first one's class", lambda: len(pod.plane.room()) == 1)
    new.close()
    pod.plane.close()


def test_groups_of_a_hybrid_share_the_arena_by_need(root: Path) -> None:
    """Each prompt brings one large chunk of the one group and four small ones of the other."""
    pod = LoopedPod(root, arena_mib=192, dead_grace_seconds=0.1)
    pod.until("the arena", lambda: pod.plane.stats().faulted_bytes == 192 * MIB)
    engine = pod.attach([[1_000_000, 4_000_000]])

    def store(group: int, numbers: range) -> None:
        left = list(numbers)

        def handed_over() -> bool:
            slots = engine.scheduler.lease(group, len(left))
            keys = b"".join(key_of(number, group) for number in left[: len(slots) // 4])
            assert engine.scheduler.publish(keys, group, slots) == len(slots) // 4
            del left[: len(slots) // 4]
            return not left

        pod.until(f"{numbers} of group {group}", handed_over)

    def hits(group: int, numbers: range) -> int:
        answers = engine.scheduler.lookup(b"".join(key_of(number, group) for number in numbers))
        engine.scheduler.end_step()
        return answers.count(_core.HIT)

    # The small ones come alone first and take every extent.
    store(0, range(192))
    for prompt in range(100):
        store(0, range(1000 + 4 * prompt, 1004 + 4 * prompt))
        store(1, range(5000 + prompt, 5001 + prompt))
    by_class = {room.stride_bytes: room.dram_total for room in pod.plane.room()}
    assert len(by_class) == 2
    assert min(stride * total for stride, total in by_class.items()) > 56 * MIB, by_class
    # The last six prompts, but for what lay in an extent that changed hands meanwhile.
    assert hits(0, range(1376, 1400)) >= 20
    assert hits(1, range(5094, 5100)) >= 5
    # What an extent holds leaves with it: few of them went to and fro.
    assert pod.loop.evicted["dram"] < 192 + 500 + 100
    engine.close()
    pod.plane.close()


def test_leases_that_an_idle_engine_keeps_come_back_when_the_cache_needs_them(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pod, engine, slots = full_pod(root)
    idle = pod.attach([[1_000_000]])
    pod.until("its leases", lambda: idle.scheduler.granted(0) == slots // (2 * planner.IDLE_LEASE_SHARE))
    monkeypatch.setattr(planner, "IDLE_ENGINE_SECONDS", 0.2)

    def is_back() -> bool:
        pod.store(engine, range(1000 + 8 * len(rounds), 1008 + 8 * len(rounds)))
        rounds.append(None)
        return bool(idle.scheduler.granted(0) <= slots // (2 * planner.IDLE_LEASE_SHARE) // planner.IDLE_ENGINE_PART)

    rounds: list[None] = []
    pod.until("the idle one's leases", is_back)
    pod.store(idle, range(5000, 5008))
    for end in (engine, idle):
        end.close()
    pod.plane.close()
