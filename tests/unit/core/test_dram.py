"""A chunk's way through DRAM: store, hit, load under a ticket, evict."""

from __future__ import annotations

from spillway import _core

from .pod import Pod, key_of, keys_of, payload_of

HIT = bytes([_core.HIT])
MISS = bytes([_core.MISS])


def test_what_is_stored_hits_and_loads_byte_for_byte(pod: Pod) -> None:
    engine = pod.attach()
    pod.store(engine, range(8))
    assert pod.load(engine, range(8)) == [payload_of(number, engine.length) for number in range(8)]
    pod.until("the ticket's end", lambda: pod.plane.stats().open_tickets == 0)
    assert pod.plane.stats().hop_bytes["engine_to_arena"] == 8 * engine.length
    assert pod.plane.stats().hop_bytes["arena_to_engine"] == 8 * engine.length


def test_key16_is_the_documented_formula(pod: Pod) -> None:
    engine = pod.attach()
    pod.store(engine, range(3))
    assert [event.key for event in pod.seen(_core.Inserted)] == [pod.key16(number) for number in range(3)]
    assert pod.plane.tiers([pod.key16(0), pod.key16(99)]) == bytes([_core.TIER_DRAM, 0])


def test_geometry_gives_each_rank_its_place(pod: Pod) -> None:
    engine = pod.attach([[100_000, 0], [50_000, 0]])
    assert engine.scheduler.geometry() == [
        (155_648, 150_000, [(4096, 100_000), (104_096, 50_000)]),
        (0, 0, [(4096, 0), (4096, 0)]),
    ]
    assert engine.scheduler.lease(1, 1) == b""


def test_lookups_miss_before_the_fingerprint_and_under_another(pod: Pod) -> None:
    engine = pod.attach()
    pod.store(engine, range(1))
    other = pod.attach()
    assert pod.lookup(other, range(1)) == HIT
    assert other.scheduler.set_fingerprint(bytes(32)[:31] + b"x")
    assert pod.lookup(other, range(1)) == MISS


def test_a_duplicate_frees_its_slot(pod: Pod) -> None:
    engine = pod.attach()
    first = pod.store(engine, range(1))
    slot = engine.scheduler.lease(0, 1)
    assert engine.scheduler.publish(key_of(0), 0, slot) == 1
    pod.until("the duplicate", lambda: pod.plane.stats().duplicates == 1)
    assert len(pod.seen(_core.Inserted)) == 1
    assert pod.lookup(engine, range(1)) == HIT
    assert first


def test_an_idle_engine_does_not_hold_up_eviction(pod: Pod) -> None:
    engine, idle = pod.attach(), pod.attach()
    pod.store(engine, range(4))
    assert pod.lookup(idle, range(4)) == HIT * 4
    assert pod.plane.evict_dram([pod.key16(number) for number in range(4)]) == [True] * 4
    pod.until("4 free slots", lambda: sum(event.count for event in pod.seen(_core.Freed)) >= 4)
    assert pod.lookup(engine, range(4)) == MISS * 4


def test_a_step_holds_up_recycling_until_it_ends(pod: Pod) -> None:
    engine = pod.attach()
    pod.store(engine, range(1))
    engine.scheduler.begin_step()
    assert engine.scheduler.lookup(key_of(0)) == HIT
    assert pod.plane.evict_dram([pod.key16(0)]) == [True]
    for _ in range(3):
        pod.turn()
    assert pod.plane.stats().recycling_slots == 1
    assert engine.scheduler.lookup(key_of(0)) == MISS
    engine.scheduler.end_step()
    pod.until("recycling", lambda: pod.plane.stats().recycling_slots == 0)


def test_a_ticket_pins_until_every_rank_acknowledged(pod: Pod) -> None:
    engine = pod.attach()
    pod.store(engine, range(2))
    ticket, slots = pod.pin(engine, range(2))
    pod.plane.evict_dram([pod.key16(0), pod.key16(1)])
    engine.ranks[0].ack(ticket)
    for _ in range(5):
        pod.turn()
    assert pod.plane.stats().pinned_slots == len(slots) == 2
    assert pod.plane.stats().recycling_slots == 2
    engine.ranks[1].ack(ticket)
    pod.until("recycling", lambda: pod.plane.stats().recycling_slots == 0)
    assert engine.scheduler.open_tickets() == 0


def test_no_ticket_outside_a_step_or_for_a_miss(pod: Pod) -> None:
    engine = pod.attach()
    pod.store(engine, range(1))
    assert engine.scheduler.take_ticket(key_of(0)) is None
    engine.scheduler.lookup(keys_of(range(2)))
    assert engine.scheduler.take_ticket(keys_of(range(2))) is None


def test_a_cancelled_ticket_pins_nothing(pod: Pod) -> None:
    engine = pod.attach()
    pod.store(engine, range(1))
    ticket, _slots = pod.pin(engine, range(1))
    engine.scheduler.cancel_ticket(ticket)
    assert engine.scheduler.open_tickets() == 0


def test_published_without_a_lease_is_refused_and_counted(pod: Pod) -> None:
    engine = pod.attach()
    slots = pod.store(engine, range(1))
    stolen = (slots[0]).to_bytes(4, "little")
    for slot in (stolen, b"\xff\xff\xff\x7f", b"\x01\x00\x00\x00"):
        engine.scheduler.publish(key_of(7), 0, slot)
    pod.until("3 refusals", lambda: pod.plane.stats().invalid_ops["not_leased"] == 3)
    assert pod.lookup(engine, range(1)) == HIT


def test_progress_changes_when_a_key_becomes_hit_or_miss(pod: Pod) -> None:
    engine = pod.attach()
    before = engine.scheduler.progress()
    pod.store(engine, range(1))
    stored = engine.scheduler.progress()
    assert stored != before
    pod.plane.evict_dram([pod.key16(0)])
    pod.until("progress", lambda: engine.scheduler.progress() != stored)


def test_a_use_is_reported_with_its_tiers(pod: Pod) -> None:
    engine = pod.attach()
    pod.store(engine, range(1))
    engine.scheduler.use(key_of(0))
    pod.until("the use", lambda: pod.seen(_core.Used))
    (used,) = pod.seen(_core.Used)
    assert (used.key, used.tiers) == (pod.key16(0), _core.TIER_DRAM)


def test_counters_reach_the_stats(pod: Pod) -> None:
    engine = pod.attach()
    engine.scheduler.count(_core.COUNT_LOOKUP_KEYS, 5)
    assert pod.plane.stats().engines[0].counters["lookup_keys"] == 5


def test_an_oversized_slot_is_refused_readably(pod: Pod) -> None:
    engine = _core.Attachment(str(pod.root), b"i" * 16, 1, 1, -1)
    rank = _core.Attachment(str(pod.root), b"i" * 16, 1, 1, 0)
    rank.declare_slices([1 << 40])
    pod.until("the refusal", lambda: pod.seen(_core.EngineRefused))
    assert engine.state() == (_core.STATE_REFUSED, _core.REFUSED_GEOMETRY)
    assert engine.geometry() is None
