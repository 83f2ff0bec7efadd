"""The planner alone, against traces: what no sequence of events and rooms may make it do."""

from __future__ import annotations

from dataclasses import dataclass, replace

from hypothesis import given
from hypothesis import strategies as st
from spillway.policy import EvictionOrder, Moves, Planner, Recency
from spillway.policy.planner import (
    DRAM,
    EXTENT_BYTES,
    FREE_SHARE,
    IDLE_ENGINE_PART,
    IDLE_ENGINE_SECONDS,
    IDLE_LEASE_MIN,
    IDLE_LEASE_SHARE,
    KEEP_EXTENT_SECONDS,
    LEASE_CAP_SHARE,
    MAX_DRAM_EXTENTS,
    MAX_WRITES,
    NVME,
    PROMOTION_SHARE,
    VACATE_AGAIN_SECONDS,
    VACATE_SECONDS,
    WRITE_SHARE,
)

STRIDE = 1 << 20
SLOTS = 240
MAX_GRANTED = 64


@dataclass(frozen=True)
class SomeRoom:
    class_id: int = 0
    stride_bytes: int = STRIDE
    dram_free: int = 0
    dram_total: int = SLOTS
    dram_to_come: int = 0
    nvme_free: int = 0


@dataclass(frozen=True)
class SomeAccount:
    tag: int
    group: int = 0
    class_id: int = 0
    idle: int = 0
    leased: int = 0


def key_of(number: int) -> bytes:
    return number.to_bytes(16, "big")


def planner(max_records: int | None = None, **options: bool) -> Planner:
    return Planner(SLOTS * STRIDE, MAX_GRANTED, max_records=max_records, **options)


def with_disk(max_records: int | None = None) -> Planner:
    return planner(max_records, nvme_configured=True, nvme_usable=True)


numbers = st.integers(0, 30)
classes = st.integers(0, 1)
tiers = st.integers(0, 3)
heard = st.one_of(
    st.tuples(st.just("found"), numbers, classes, tiers),
    st.tuples(st.just("used"), numbers),
    st.tuples(st.just("promotion_wanted"), numbers, classes, st.floats(0, 20)),
    st.tuples(st.just("lies"), numbers, tiers),
    st.tuples(st.just("freed"), classes, st.integers(0, 9)),
    st.tuples(st.just("plan"), st.integers(0, 20), st.integers(0, 20), st.integers(0, 70)),
)


def say(planner: Planner, event: tuple[object, ...], now: float) -> Moves | None:
    """One event of a trace; the moves if it is a turn, all of which are carried out."""
    name, *rest = event
    if name == "plan":
        dram_free, nvme_free, idle = rest
        rooms = [SomeRoom(0, dram_free=dram_free, nvme_free=nvme_free), SomeRoom(1, dram_free=dram_free)]
        moves = planner.plan(rooms, [SomeAccount(0, idle=idle), SomeAccount(1, class_id=1)], now)
        planner.evicted(moves.evict)
        planner.dropped(moves.drop)
        return moves
    if name != "freed":
        rest[0] = key_of(rest[0])
    getattr(planner, name)(*rest)
    return None


@given(st.lists(heard, max_size=60))
def test_a_trace_replays_to_the_same_moves(trace: list[tuple[object, ...]]) -> None:
    first, second = with_disk(), with_disk()
    for now, event in enumerate(trace):
        assert say(first, event, now) == say(second, event, now)


@given(st.lists(heard, max_size=80), st.none() | st.integers(0, 20))
def test_no_move_names_a_chunk_twice_or_one_that_is_on_its_way(
    trace: list[tuple[object, ...]], max_records: int | None
) -> None:
    subject = with_disk(max_records)
    writing: set[bytes] = set()
    for now, event in enumerate(trace):
        moves = say(subject, event, now)
        if moves is None:
            continue
        for keys in (moves.evict, moves.drop, moves.write, moves.promote):
            assert len(keys) == len(set(keys))
        assert not writing & {*moves.evict, *moves.write}, "nothing here ever ends a write"
        assert not set(moves.evict) & set(moves.write)
        assert not set(moves.drop) & set(moves.promote), "what is read stays on NVMe"
        writing.update(moves.write)


@given(st.integers(0, SLOTS), st.integers(0, 300), st.integers(0, 300))
def test_evictions_reach_the_reserve_and_no_further(free: int, leaving: int, stored: int) -> None:
    subject = planner()
    for number in range(stored):
        subject.found(key_of(number), 0, DRAM)
    subject.evicted(map(key_of, range(min(leaving, stored))))
    evict = subject.plan([SomeRoom(dram_free=free)], [], 0).evict
    left = max(stored - leaving, 0)
    assert len(evict) == min(max(SLOTS // FREE_SHARE - free - min(leaving, stored), 0), left)


def test_oldest_leave_first_and_a_use_saves() -> None:
    subject = planner()
    for number in range(100):
        subject.found(key_of(number), 0, DRAM)
    subject.used(key_of(0))
    assert subject.plan([SomeRoom(dram_free=22)], [], 0).evict == [key_of(1), key_of(2)]


def test_another_order_of_eviction_is_one_argument() -> None:
    class Newest(Recency):
        """The newest leaves first."""

        def victims(self, class_id: int, count: int, *_args: object, **_more: object) -> list[bytes]:
            return list(reversed(super().victims(class_id, len(self))))[:count]

    order: type[EvictionOrder] = Newest
    subject = Planner(SLOTS * STRIDE, MAX_GRANTED, order=order)
    for number in range(100):
        subject.found(key_of(number), 0, DRAM)
    assert subject.plan([SomeRoom(dram_free=23)], [], 0).evict == [key_of(99)]


@given(st.lists(st.integers(0, MAX_GRANTED), min_size=1, max_size=8), st.integers(0, SLOTS))
def test_leases_have_a_target_and_a_cap_and_are_shared(idle: list[int], free: int) -> None:
    accounts = [SomeAccount(tag, idle=count) for tag, count in enumerate(idle)]
    target = min(max(SLOTS // (IDLE_LEASE_SHARE * len(idle)), IDLE_LEASE_MIN), MAX_GRANTED)
    granted = {tag: count for tag, _group, count in planner().plan([SomeRoom(dram_free=free)], accounts, 0).grant}
    assert sum(granted.values()) == min(sum(max(target - count, 0) for count in idle), free)
    for tag, count in granted.items():
        assert 0 < count <= target - idle[tag]
    needy = [tag for tag, count in enumerate(idle) if count < target]
    assert len(granted) == min(len(needy), free), "one engine's burst left another with none"


@given(st.integers(0, SLOTS), st.integers(1, 4), st.integers(1, 4))
def test_an_engine_that_gives_nothing_back_gets_no_more_than_its_cap(leased: int, engines: int, groups: int) -> None:
    """Whatever its groups have in their rings: what it took and holds counts too."""
    accounts = [SomeAccount(tag, group, leased=leased) for tag in range(engines) for group in range(groups)]
    grants = planner().plan([SomeRoom(dram_free=SLOTS)], accounts, 0).grant
    cap = max(SLOTS // (LEASE_CAP_SHARE * engines), IDLE_LEASE_MIN)
    for tag in range(engines):
        granted = sum(count for to, _group, count in grants if to == tag)
        assert granted <= max(cap - leased, 0)
        assert granted > 0 or leased >= cap


def test_debts_empty_no_other_class() -> None:
    subject = planner()
    for number in range(SLOTS):
        subject.found(key_of(number), 0, DRAM)
    reserve = SLOTS // FREE_SHARE
    rooms = [SomeRoom(0, dram_free=reserve), SomeRoom(1, dram_free=0)]
    owing = [SomeAccount(0, group=group, class_id=1) for group in range(8)]
    assert subject.plan(rooms, owing, 0).evict == []


def test_who_can_be_granted_to_no_more_is_owed_nothing() -> None:
    """A refused or dead engine, or a group without bytes, has no account: nothing stays empty for it."""
    subject = planner()
    for number in range(SLOTS):
        subject.found(key_of(number), 0, DRAM)
    room = SomeRoom(dram_free=SLOTS // FREE_SHARE)
    assert len(subject.plan([room], [SomeAccount(0)], 0).evict) > 0
    assert subject.plan([room], [], 0).evict == []


def test_chunks_that_many_requests_wait_for_are_read_once_and_within_the_share() -> None:
    subject = with_disk()
    for _request in range(3):
        for number in range(SLOTS):
            subject.promotion_wanted(key_of(number), 0, deadline=10)
    first = subject.plan([SomeRoom(dram_free=SLOTS)], [], 0).promote
    assert first == [key_of(number) for number in range(SLOTS // PROMOTION_SHARE)]
    assert subject.plan([SomeRoom(dram_free=SLOTS)], [], 0).promote == []
    assert subject.plan([SomeRoom(dram_free=SLOTS)], [], 11).promote == []


def test_what_was_promoted_for_a_request_stays_until_it_was_used_or_is_late() -> None:
    subject = with_disk()
    subject.promotion_wanted(key_of(0), 0, deadline=10)
    subject.plan([SomeRoom(dram_free=SLOTS)], [], 0)
    subject.read_ended(key_of(0), 0, DRAM | NVME)
    for number in range(1, 50):
        subject.found(key_of(number), 0, DRAM | NVME)
    full = SomeRoom(dram_free=0)
    assert subject.plan([full], [], 1).evict == [key_of(number) for number in range(1, 25)]
    assert key_of(0) in subject.plan([full], [], 11).evict
    subject.used(key_of(0))
    assert key_of(0) not in subject.plan([full], [], 12).evict


def test_what_a_ticket_holds_counts_as_used() -> None:
    subject = planner()
    for number in range(50):
        subject.found(key_of(number), 0, DRAM)
    room = SomeRoom(dram_free=SLOTS // FREE_SHARE - 1)
    assert subject.plan([room], [], 0).evict == [key_of(0)]
    subject.eviction_refused(key_of(0), DRAM)
    assert subject.plan([room], [], 0).evict == [key_of(1)]


def test_what_a_request_waits_for_does_not_leave_nvme_for_a_write() -> None:
    subject = with_disk()
    for number in range(20):
        subject.found(key_of(number), 0, NVME)
    subject.promotion_wanted(key_of(0), 0, deadline=10)
    for number in range(1, 20):
        subject.used(key_of(number))
    subject.found(key_of(100), 0, DRAM)
    moves = subject.plan([SomeRoom()], [], 0)
    assert (moves.drop, moves.write) == ([key_of(1)], [key_of(100)])


@given(st.integers(1, 400), st.integers(0, 400), st.integers(1, 64 << 20))
def test_writes_keep_to_their_window(unwritten: int, nvme_free: int, stride: int) -> None:
    subject = with_disk()
    for number in range(unwritten):
        subject.found(key_of(number), 0, DRAM)
    room = SomeRoom(stride_bytes=stride, nvme_free=nvme_free, dram_free=SLOTS)
    write = subject.plan([room], [], 0).write
    assert write == [key_of(number) for number in range(len(write))]
    assert len(write) <= min(MAX_WRITES, SLOTS // WRITE_SHARE, nvme_free)
    again = subject.plan([replace(room, nvme_free=nvme_free - len(write))], [], 0).write
    assert not set(write) & set(again)


def test_write_that_the_device_failed_is_tried_once_more() -> None:
    subject = with_disk()
    room = SomeRoom(nvme_free=9, dram_free=SLOTS)
    subject.found(key_of(0), 0, DRAM)
    assert subject.plan([room], [], 0).write == [key_of(0)]
    subject.write_ended(key_of(0), 0, DRAM, device_failed=True)
    assert subject.plan([room], [], 0).write == [key_of(0)]
    subject.write_ended(key_of(0), 0, DRAM, device_failed=True)
    assert subject.plan([room], [], 0).write == []


def test_write_that_was_refused_waits_and_one_whose_chunk_left_does_not() -> None:
    subject = with_disk()
    room = SomeRoom(nvme_free=9, dram_free=SLOTS)
    for number in range(2):
        subject.found(key_of(number), 0, DRAM)
    assert len(subject.plan([room], [], 0).write) == 2
    subject.write_refused(key_of(0), 0)
    subject.write_refused(key_of(1), DRAM)
    assert (subject.unwritten, subject.is_writing) == (1, False)
    assert subject.plan([room], [], 0).write == [key_of(1)]


def test_a_class_without_room_asks_another_for_extents_and_searches_a_tenth_of_the_time() -> None:
    subject = with_disk()
    for number in range(20):
        subject.found(key_of(number), 0, NVME)
    subject.found(key_of(100), 1, DRAM)
    rooms = [SomeRoom(0), SomeRoom(1, dram_free=SLOTS)]
    (donation,) = subject.plan(rooms, [], 0).donate
    assert (donation.to_class, donation.extents) == (1, 1)
    assert donation.oldest == [key_of(number) for number in range(20)]
    subject.searched(began=0.0, ended=0.5, brought=0)
    assert subject.plan(rooms, [], 1.4).donate == []
    assert len(subject.plan(rooms, [], 1.6).donate) == 1


PER_EXTENT = EXTENT_BYTES // STRIDE


def with_a_class_that_was_used_before(old: int, young: int) -> Planner:
    """Chunks of class 0, all used before any of class 1."""
    subject = planner()
    for number in range(old):
        subject.found(key_of(number), 0, DRAM)
    for number in range(1000, 1000 + young):
        subject.found(key_of(number), 1, DRAM)
    return subject


def test_class_that_an_engine_needs_gets_extents_of_one_that_was_used_before() -> None:
    subject = with_a_class_that_was_used_before(200, 0)
    rooms = [SomeRoom(0, dram_free=64), SomeRoom(1, dram_total=0)]
    moves = subject.plan(rooms, [SomeAccount(0, class_id=1)], 0)
    (donation,) = moves.vacate
    assert (donation.to_class, donation.extents) == (1, 1)
    assert donation.oldest == [key_of(number) for number in range(200)]
    subject.vacating(1, 1, 0)
    # Until they come nothing else is asked for, and what lies in them leaves but for what a request waits for.
    coming = [rooms[0], replace(rooms[1], dram_to_come=PER_EXTENT)]
    vacated = [key_of(number) for number in range(3)]
    moves = subject.plan(coming, [SomeAccount(0, class_id=1)], 0.1, vacated)
    assert (moves.vacate, moves.evict) == ([], vacated)


@given(st.integers(0, 240), st.integers(0, 240), st.integers(0, 64), st.booleans(), st.integers(0, PER_EXTENT))
def test_extents_change_hands_for_need_and_age_alone(
    old: int, young: int, free: int, donor_is_used: bool, total: int
) -> None:
    subject = with_a_class_that_was_used_before(old, young)
    rooms = [SomeRoom(0), SomeRoom(1, dram_free=free, dram_total=total)]
    accounts = [SomeAccount(0, class_id=1, idle=2), *([SomeAccount(1)] if donor_is_used else [])]
    moves = subject.plan(rooms, accounts, 0)
    for donation in moves.vacate:
        assert donation.to_class == 1 or old == 0, "the older class never takes from the younger"
        assert 0 < donation.extents <= MAX_DRAM_EXTENTS
        owned = -(-SLOTS // PER_EXTENT)
        assert donation.extents <= owned - donor_is_used, "a class that an engine uses keeps an extent"
    if moves.vacate and old and young:
        assert old > young // 8, "of classes that are used alike neither gives anything away"
    nobody = with_a_class_that_was_used_before(old, young).plan(rooms, [], 0)
    assert nobody.vacate == [], "nobody needs it"


def test_class_that_waits_too_long_for_an_extent_evicts_its_own() -> None:
    subject = with_a_class_that_was_used_before(200, 100)
    rooms = [SomeRoom(0, dram_free=64), SomeRoom(1, dram_to_come=PER_EXTENT)]
    subject.vacating(1, 1, 0)
    account = [SomeAccount(0, class_id=1)]
    assert subject.plan(rooms, account, VACATE_SECONDS / 2).evict == []
    assert len(subject.plan(rooms, account, VACATE_SECONDS).evict) > 0


def test_class_that_got_an_extent_keeps_it_for_a_while_if_an_engine_uses_it() -> None:
    subject = with_a_class_that_was_used_before(200, 0)
    subject.vacating(0, 1, now=0)
    rooms = [SomeRoom(0), SomeRoom(1, dram_total=0)]
    needy, both = [SomeAccount(0, class_id=1)], [SomeAccount(0, class_id=1), SomeAccount(0)]
    assert subject.plan(rooms, both, KEEP_EXTENT_SECONDS - 1).vacate == []
    assert len(subject.plan(rooms, needy, KEEP_EXTENT_SECONDS - 1).vacate) == 1
    assert len(subject.plan(rooms, both, KEEP_EXTENT_SECONDS).vacate) == 1


def test_a_class_whose_extents_never_came_does_not_eat_its_way_through_the_donor() -> None:
    subject = with_a_class_that_was_used_before(200, 0)
    rooms, account = [SomeRoom(0, dram_free=64), SomeRoom(1, dram_total=0)], [SomeAccount(0, class_id=1)]
    assert len(subject.plan(rooms, account, 0).vacate) == 1
    subject.vacating(1, 1, 0)
    assert subject.plan([rooms[0], replace(rooms[1], dram_to_come=PER_EXTENT)], account, 5).vacate == []
    # Something in it could not leave, so it stayed where it was.
    assert subject.plan(rooms, account, 10).vacate == []
    assert subject.plan(rooms, account, 10 + VACATE_AGAIN_SECONDS - 1).vacate == []
    assert len(subject.plan(rooms, account, 10 + VACATE_AGAIN_SECONDS).vacate) == 1


def test_an_extent_that_cannot_be_vacated_is_not_asked_for_at_every_turn() -> None:
    subject = with_a_class_that_was_used_before(200, 0)
    rooms, account = [SomeRoom(0, dram_free=64), SomeRoom(1, dram_total=0)], [SomeAccount(0, class_id=1)]
    assert len(subject.plan(rooms, account, 0).vacate) == 1
    subject.vacating(1, 0, 0)
    assert subject.plan(rooms, account, 0.9).vacate == []
    assert len(subject.plan(rooms, account, 1.1).vacate) == 1


@given(st.integers(0, MAX_GRANTED), st.integers(0, SLOTS), st.booleans())
def test_leases_that_nobody_uses_come_back_before_a_chunk_leaves(idle: int, free: int, used: bool) -> None:
    subject = planner()
    for number in range(SLOTS):
        subject.found(key_of(number), 0, DRAM)
    account, room = SomeAccount(0, idle=idle), SomeRoom(dram_free=free)
    subject.plan([SomeRoom(dram_free=SLOTS)], [account], 0)
    if used:
        subject.leases_wanted(0, 0, IDLE_ENGINE_SECONDS)
    moves = subject.plan([room], [account], IDLE_ENGINE_SECONDS)
    share = SLOTS // IDLE_LEASE_SHARE // (1 if used else IDLE_ENGINE_PART)
    recalled = sum(count for _tag, _group, count in moves.recall)
    reserve = SLOTS // FREE_SHARE
    assert recalled == min(max(idle - share, 0), max(reserve - free, 0))
    owed = max(share - idle, 0)
    assert len(moves.evict) == max(max(reserve, owed) - max(free, 0) - recalled, 0)


def test_an_engine_that_took_none_for_long_keeps_some_and_gets_its_share_again_when_it_comes_back() -> None:
    subject = planner()
    account, room = SomeAccount(0), SomeRoom(dram_free=SLOTS)
    subject.plan([room], [account], 0)
    (few,) = subject.plan([room], [account], IDLE_ENGINE_SECONDS).grant
    subject.leases_wanted(0, 0, IDLE_ENGINE_SECONDS)
    (share,) = subject.plan([room], [account], IDLE_ENGINE_SECONDS).grant
    assert (few[2], share[2]) == (SLOTS // IDLE_LEASE_SHARE // IDLE_ENGINE_PART, SLOTS // IDLE_LEASE_SHARE)


@given(st.integers(0, 300), st.integers(0, 60), st.integers(0, 300))
def test_what_cannot_be_remembered_leaves_the_disk_oldest_first(on_disk: int, in_dram: int, budget: int) -> None:
    subject = with_disk(budget)
    for number in range(on_disk):
        subject.found(key_of(number), 0, NVME)
    for number in range(on_disk, on_disk + in_dram):
        subject.found(key_of(number), 0, DRAM | NVME)
    moves = subject.plan([SomeRoom(dram_free=SLOTS)], [], 0)
    beyond = max(on_disk + 2 * in_dram - budget, 0)
    assert moves.drop == [key_of(number) for number in range(min(beyond, on_disk + in_dram))]
    subject.dropped(moves.drop)
    assert subject.plan([SomeRoom(dram_free=SLOTS)], [], 0).drop == []


def test_without_a_disk_what_cannot_be_remembered_leaves_dram() -> None:
    subject = planner(max_records=70)
    for number in range(100):
        subject.found(key_of(number), 0, DRAM)
    moves = subject.plan([SomeRoom(dram_free=SLOTS)], [], 0)
    assert moves.evict == [key_of(number) for number in range(30)]


def test_a_scan_does_not_outrun_the_budget() -> None:
    """A turn tells of 1024 chunks at most."""
    subject, budget, known = with_disk(5000), 5000, 0
    for turn in range(40):
        for number in range(turn * 1024, (turn + 1) * 1024):
            subject.found(key_of(number), 0, NVME)
        drop = subject.plan([SomeRoom(dram_free=SLOTS)], [], 0).drop
        subject.dropped(drop)
        known += 1024 - len(drop)
        assert known <= budget
