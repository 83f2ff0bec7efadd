//! DRAM extents change classes, classes end, and leases that no engine took come back.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used)]

mod plane_kit;

use std::time::Duration;

use plane_kit::*;
use spillway_engine::attach::{Attachment, HIT};
use spillway_engine::key::Key16;
use spillway_engine::layout::{EXTENT_BYTES, MAX_CLASSES, stride_of};
use spillway_engine::plane::{Event, OpenOptions, Plane};

const SMALL: usize = 1_000_000;
const LARGE: usize = 3_000_000;

fn with_extents(root: &std::path::Path, arena_bytes: u64) -> Plane {
    let mut plane = Plane::open(OpenOptions { arena_bytes, dead_grace: Duration::from_millis(20), ..options(root) }).unwrap();
    let bytes = plane.report().arena_bytes;
    until(&mut plane, "the arena", |plane, _| plane.stats().faulted_bytes == bytes);
    plane
}

/// Store chunks until nothing of the class is free; how many.
fn fill(plane: &mut Plane, engine: &mut Engine, first: u32) -> u32 {
    let mut stored = 0;
    while engine.offer(plane, first + stored) {
        stored += 1;
    }
    let keys: Vec<Key16> = (first..first + stored).map(key16).collect();
    until(plane, "the chunks", |plane, _| plane.tiers(&keys).iter().all(|bits| *bits == 1));
    stored
}

#[test]
fn the_arena_is_as_large_as_was_asked_for() {
    let folder = folder();
    let mut plane = with_extents(folder.path(), 82 << 20);
    assert_eq!((plane.report().arena_bytes_asked, plane.report().arena_bytes), (82 << 20, 82 << 20));
    let mut engine = Engine::attach(&mut plane, folder.path(), 1, LARGE);
    let stored = fill(&mut plane, &mut engine, 0);
    let stride = stride_of(LARGE as u64).unwrap();
    assert_eq!(u64::from(stored), EXTENT_BYTES / stride + (18 << 20) / stride);
    assert!((0..stored).all(|number| engine.check(number)));
    drop(plane);
    let mut successor = with_extents(folder.path(), 82 << 20);
    assert!(successor.report().adopted, "{}", successor.report().reason);
    assert_eq!(successor.stats().dram.chunks, u64::from(stored));
    until(&mut successor, "nothing", |_, _| true);
    assert!((0..stored).all(|number| engine.check(number)));
}

#[test]
fn an_extent_goes_over_to_another_class_chunk_by_chunk() {
    let folder = folder();
    let mut plane = with_extents(folder.path(), 2 * EXTENT_BYTES);
    let mut old = Engine::attach(&mut plane, folder.path(), 1, SMALL);
    let stored = fill(&mut plane, &mut old, 0);
    let mut new = Engine::attach(&mut plane, folder.path(), 2, LARGE);
    let class = plane.lease_accounts().iter().find(|account| account.0 == new.tag).unwrap().2;
    assert_eq!((plane.dram_slots(class), plane.grant(new.tag, 0, 1)), ((0, 0), 0));

    assert_eq!(plane.vacate_dram(&[key16(0), key16(1)], class, 5), 1, "both lie in one extent");
    assert_eq!(plane.vacate_dram(&[key16(0)], class, 5), 0, "it is on its way");
    let per_extent = EXTENT_BYTES / stride_of(LARGE as u64).unwrap();
    assert_eq!((plane.dram_slots_to_come(class), plane.dram_slots(0).1), (per_extent, u64::from(stored / 2)));
    let chunks = plane.vacated_chunks();
    assert_eq!(chunks, (0..stored / 2).map(key16).collect::<Vec<_>>());
    // All but one: what frees up meanwhile is neither class's.
    assert_eq!(evicted(&plane.evict_dram(&chunks[1..], false)), chunks.len() - 1);
    until(&mut plane, "the recycling", |plane, _| plane.stats().recycling_slots == 0);
    assert_eq!((plane.grant(old.tag, 0, 1), plane.grant(new.tag, 0, 1)), (0, 0));
    assert_eq!(evicted(&plane.evict_dram(&plane.vacated_chunks(), false)), 1);
    until(&mut plane, "the extent", |plane, _| plane.dram_slots(class) == (per_extent, per_extent));
    assert_eq!(u64::from(fill(&mut plane, &mut new, 1000)), per_extent);
    assert!((stored / 2..stored).all(|number| old.check(number)), "the other extent is as it was");
    assert!((1000..1000 + per_extent as u32).all(|number| new.check(number)));
    assert!(plane.vacated_chunks().is_empty());
}

#[test]
fn leases_that_lie_in_a_vacated_extent_come_back_or_are_waited_for() {
    let folder = folder();
    let mut plane = with_extents(folder.path(), EXTENT_BYTES);
    let mut old = Engine::attach(&mut plane, folder.path(), 1, SMALL);
    until(&mut plane, "a lease", |plane, _| old.offer(plane, 0));
    until(&mut plane, "a chunk", |plane, _| plane.tiers(&[key16(0)]) == [1]);
    assert_eq!(plane.grant(old.tag, 0, 10), 10);
    let taken = old.scheduler.lease(0, 2).unwrap();
    let new = Engine::attach(&mut plane, folder.path(), 2, LARGE);
    let class = plane.lease_accounts().iter().find(|account| account.0 == new.tag).unwrap().2;
    assert_eq!(plane.vacate_dram(&[key16(0)], class, 1), 1);
    assert_eq!((old.scheduler.granted(0).unwrap(), plane.stats().leases_out), (0, 2));
    plane.evict_dram(&plane.vacated_chunks(), false);
    until(&mut plane, "the recycling", |plane, _| plane.stats().recycling_slots == 0);
    assert_eq!(plane.dram_slots(class), (0, 0), "two of its slots are an engine's");
    assert_eq!(old.scheduler.release(0, &taken).unwrap(), 2);
    until(&mut plane, "the extent", |plane, _| plane.dram_slots(class).0 > 0);
}

#[test]
fn leases_that_were_not_taken_come_back_and_others_do_not() {
    let folder = folder();
    let mut plane = with_extents(folder.path(), EXTENT_BYTES);
    let mut engine = Engine::attach(&mut plane, folder.path(), 1, SMALL);
    let (_, total) = plane.dram_slots(0);
    assert_eq!(plane.grant(engine.tag, 0, 10), 10);
    let taken = engine.scheduler.lease(0, 3).unwrap();
    let wanted = |events: &[Event]| count!(events, Event::LeaseWanted { count: 3, .. });
    let mut told = 0;
    until(&mut plane, "what it took", |_, events| {
        told += wanted(events);
        told == 1
    });
    assert_eq!(plane.recall_leases(engine.tag, 0, 4), 4);
    assert_eq!((engine.scheduler.granted(0).unwrap(), plane.stats().leases_out), (3, 6));
    assert_eq!(plane.dram_slots(0), (total - 6, total));
    let events = plane.poll(Duration::ZERO, 100);
    assert_eq!(count!(events, Event::LeaseWanted { .. }), 0, "what came back is nothing that the engine wanted");
    assert_eq!(plane.recall_leases(engine.tag, 0, 100), 3);
    assert_eq!(engine.scheduler.lease(0, 5).unwrap(), []);
    assert_eq!(plane.recall_leases(engine.tag, 0, 1), 0);
    for (number, slot) in taken.iter().enumerate() {
        std::os::unix::fs::FileExt::write_all_at(&engine.arena, &payload(number as u32, SMALL), u64::from(*slot) * 4096 + 4096).unwrap();
        assert_eq!(engine.scheduler.publish(&key(number as u32), 0, &[*slot]).unwrap(), 1);
    }
    until(&mut plane, "the chunks", |plane, _| plane.tiers(&[key16(0), key16(1), key16(2)]) == [1, 1, 1]);
    assert!((0..3).all(|number| engine.check(number)));
    // The ring goes on where both left it.
    assert_eq!(plane.grant(engine.tag, 0, 2), 2);
    assert_eq!(engine.scheduler.lease(0, 2).unwrap().len(), 2);
    assert_eq!(engine.answer(0), HIT);
}

#[test]
fn a_ring_whose_words_are_rubbish_costs_its_engine_its_leases_and_nobody_else() {
    let folder = folder();
    let mut plane = with_extents(folder.path(), EXTENT_BYTES);
    let mut good = Engine::attach(&mut plane, folder.path(), 1, SMALL);
    let bad = Engine::attach(&mut plane, folder.path(), 2, SMALL);
    until(&mut plane, "a lease", |plane, _| good.offer(plane, 0));
    assert_eq!((plane.grant(good.tag, 0, 4), plane.grant(bad.tag, 0, 4)), (4, 4));
    let slots = good.scheduler.lease(0, 4).unwrap();
    let words = std::fs::OpenOptions::new().write(true).open(control_path(folder.path(), &[2; 16])).unwrap();
    let write = |at: usize, bytes: &[u8]| std::os::unix::fs::FileExt::write_all_at(&words, bytes, at as u64).unwrap();
    use spillway_engine::layout::{RingHeader, ctl};
    // The other's slots, in its own ring; then tails that cannot be.
    for (at, slot) in slots.iter().enumerate() {
        write(ctl::GRANTS + size_of::<RingHeader>() + at * 4, &slot.to_le_bytes());
    }
    assert_eq!(plane.recall_leases(bad.tag, 0, 4), 0);
    for tail in [u64::MAX, 1 << 47, 5, 1 << 48] {
        write(ctl::GRANTS + 64, &tail.to_le_bytes());
        plane.recall_leases(bad.tag, 0, 1024);
        plane.grant(bad.tag, 0, 1);
        plane.poll(Duration::ZERO, 100);
    }
    assert_eq!(good.scheduler.release(0, &slots).unwrap(), 4);
    until(&mut plane, "the releases", |plane, _| plane.stats().engines[0].leases == 0);
    assert!(good.check(0));
    drop(bad);
    let (_, total) = plane.dram_slots(0);
    until(&mut plane, "the death of the other", |plane, _| plane.dram_slots(0) == (total - 1, total));
}

#[test]
fn classes_that_nobody_uses_make_room_for_others() {
    let folder = folder();
    let mut plane = with_extents(folder.path(), EXTENT_BYTES);
    let attach = |plane: &mut Plane, number: usize| {
        let id = [number as u8 + 1; 16];
        let scheduler = Attachment::new(folder.path(), &id, 1, 1, -1).unwrap();
        let mut rank = Attachment::new(folder.path(), &id, 1, 1, 0).unwrap();
        rank.declare_slices(&[(number as u64 + 1) << 17]).unwrap();
        until(plane, "an answer", |_, _| scheduler.geometry().is_some() || scheduler.state().0 == 2);
        assert!(scheduler.geometry().is_some(), "engine {number} was refused");
        (scheduler, rank)
    };
    let per_round = MAX_CLASSES / 2 + 1;
    for round in 0..2 {
        let engines: Vec<_> = (0..per_round).map(|number| attach(&mut plane, round * per_round + number)).collect();
        assert_eq!(plane.classes().len(), per_round);
        drop(engines);
        until(&mut plane, "their end", |plane, _| plane.stats().engines.is_empty() && plane.classes().is_empty());
    }
    // A chunk keeps its class, and the last one gives it up.
    let mut engine = Engine::attach(&mut plane, folder.path(), 200, SMALL);
    until(&mut plane, "a lease", |plane, _| engine.offer(plane, 0));
    until(&mut plane, "a chunk", |plane, _| plane.tiers(&[key16(0)]) == [1]);
    drop(engine);
    until(&mut plane, "its end", |plane, _| plane.stats().engines.is_empty());
    let end = std::time::Instant::now() + Duration::from_millis(500);
    until(&mut plane, "two looks at the classes", |_, _| std::time::Instant::now() > end);
    assert_eq!(plane.classes().len(), 1);
    assert_eq!(plane.evict_dram(&[key16(0)], false), [true]);
    until(&mut plane, "its end", |plane, _| plane.classes().is_empty());
}
