//! What engines ask for is bounded and done once, and one that stands still stops nobody else.
#![allow(clippy::unwrap_used)]

mod plane_kit;

use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use plane_kit::*;
use spillway_engine::attach::{HIT, MISS};
use spillway_engine::index::IndexShape;
use spillway_engine::key::Key16;
use spillway_engine::layout::{CtlHeader, EXTENT_BYTES, PAGE_BYTES, stride_of};
use spillway_engine::plane::{Event, OpenOptions, Outcome, Plane, TIER_DRAM, TIER_NVME};

const PAYLOAD: usize = 100_000;

/// Deadlines in ms of the promotions that the policy was told of.
fn promotions(events: &[Event]) -> Vec<u32> {
    events.iter().filter_map(|event| if let Event::Promote { deadline_ms, .. } = event { Some(*deadline_ms) } else { None }).collect()
}

#[test]
fn thousands_of_asks_for_a_few_chunks_are_told_a_few_times() {
    let _alone = alone();
    let folder = folder();
    let mut plane = Plane::open(with_nvme(folder.path(), 128)).unwrap();
    let mut engine = Engine::attach(&mut plane, folder.path(), 1, PAYLOAD);
    put_on_nvme(&mut plane, &mut engine, 0..8);
    let asked: Vec<u8> = (0..8).flat_map(key).collect();
    let mut seen = Vec::new();
    let mut sent = 0;
    while sent < 30_720 {
        sent += engine.scheduler.promote(&asked, &[0], u64::MAX).unwrap();
        seen.extend(plane.poll(Duration::ZERO, 1 << 16));
    }
    let told = promotions(&seen);
    assert!((8..=16).contains(&told.len()), "{} tellings of 8 chunks", told.len());
    assert!(told.iter().all(|deadline_ms| *deadline_ms <= 600_000), "nobody waits for {} ms", told[0]);

    // Once read and evicted again they can be asked for anew.
    plane.read(&(0..8).map(key16).collect::<Vec<_>>());
    until(&mut plane, "the reads", |plane, _| plane.stats().dram.chunks == 8);
    assert_eq!(evicted(&plane.evict_dram(&(0..8).map(key16).collect::<Vec<_>>(), false)), 8);
    engine.scheduler.promote(&asked, &[0], 1000).unwrap();
    let mut told = 0;
    until(&mut plane, "the tellings", |_, events| {
        told += promotions(events).len();
        told == 8
    });
}

/// As many entries as an index can have at least, and more chunks than that.
#[test]
fn a_full_index_gives_up_its_oldest_and_never_freezes() {
    let _alone = alone();
    let folder = folder();
    let least = IndexShape { arena_bytes: EXTENT_BYTES, entry_count: IndexShape::MIN_ENTRIES }.file_bytes();
    let mut plane = Plane::open(OpenOptions { index_bytes: least, ..with_nvme(folder.path(), 256) }).unwrap();
    assert_eq!(plane.stats().entries, IndexShape::MIN_ENTRIES);
    let mut engine = Engine::attach(&mut plane, folder.path(), 1, 60_000);
    let mut displaced = Vec::new();
    for first in (0..2048).step_by(128) {
        let numbers = first..first + 128;
        let keys: Vec<_> = numbers.clone().map(key16).collect();
        let mut events = Vec::new();
        for number in numbers {
            events.extend(until(&mut plane, "a lease", |plane, _| engine.offer(plane, number)));
        }
        events.extend(until(&mut plane, "the ring", |plane, _| plane.stats().engines[0].ring_depth == 0));
        assert_eq!(count!(events, Event::Inserted { .. }), 128, "from {first} on");
        events.extend(until(&mut plane, "the writes", |plane, _| {
            plane.write(&keys);
            plane.tiers(&keys).iter().all(|bits| matches!(bits, 0 | 3))
        }));
        plane.evict_dram(&keys, false);
        events.extend(until(&mut plane, "the recycling", |plane, _| plane.stats().recycling_slots == 0));
        displaced.extend(events.into_iter().filter_map(|event| match event {
            Event::Quarantined { key: Some(key), outcome: Outcome::Gone, tier } => Some((key, tier)),
            Event::Quarantined { .. } => panic!("{event:?}"),
            _ => None,
        }));
    }
    assert_eq!(plane.stats().index_full, 0);
    let (chunks, left) = (plane.stats().nvme.chunks, plane.stats().index_displaced);
    assert_eq!(chunks + left, 2048);
    assert!(chunks > 1000, "{chunks} chunks in 1024 entries");
    // The policy hears of each, by the tier that it left, and the slots are free.
    let from_nvme = displaced.iter().filter(|(_, tier)| *tier == TIER_NVME).count() as u64;
    assert_eq!(from_nvme, left - displaced.iter().filter(|(key, tier)| *tier == TIER_DRAM && is_alone(&displaced, *key)).count() as u64);
    assert!(displaced.iter().all(|(key, _)| plane.tiers(&[*key]) == [0]));
    let (free, total) = plane.nvme_slots(0);
    assert_eq!(total - free, chunks);
    assert_eq!(plane.stats().quarantined.iter().map(|(_, chunks)| chunks).sum::<u64>(), 0);
    let (free, total) = plane.dram_slots(0);
    assert_eq!(free + plane.stats().leases_out, total);
}

fn is_alone(displaced: &[(Key16, u8)], key: Key16) -> bool {
    displaced.iter().filter(|(other, _)| *other == key).count() == 1
}

#[test]
fn the_oldest_of_a_window_goes_first() {
    let _alone = alone();
    let folder = folder();
    let least = IndexShape { arena_bytes: EXTENT_BYTES, entry_count: IndexShape::MIN_ENTRIES }.file_bytes();
    let mut plane = Plane::open(OpenOptions { index_bytes: least, ..options(folder.path()) }).unwrap();
    let mut engine = Engine::attach(&mut plane, folder.path(), 1, 60_000);
    let home = key16(0).home(IndexShape::MIN_ENTRIES);
    let same: Vec<u32> = (0..u32::MAX).filter(|number| key16(*number).home(IndexShape::MIN_ENTRIES) == home).take(34).collect();
    for number in &same[..32] {
        until(&mut plane, "a lease", |plane, _| engine.offer(plane, *number));
    }
    until(&mut plane, "32 chunks", |plane, _| plane.stats().dram.chunks == 32);
    engine.scheduler.use_keys(&key(same[0])).unwrap();
    until(&mut plane, "its use", |plane, _| plane.stats().engines[0].ring_depth == 0);
    for number in &same[32..] {
        until(&mut plane, "a lease", |plane, _| engine.offer(plane, *number));
    }
    until(&mut plane, "the ring", |plane, _| plane.stats().engines[0].ring_depth == 0);
    let left: Vec<u8> = plane.tiers(&same.iter().map(|number| key16(*number)).collect::<Vec<_>>());
    assert_eq!(left[..4], [1, 0, 0, 1], "used again, oldest, second oldest, third oldest");
    assert_eq!(left[4..].iter().map(|bits| usize::from(*bits)).sum::<usize>(), 30);
    assert!(same[3..].iter().all(|number| engine.check(*number)));
}

/// The chunks that share an extent are found without looking at any other.
#[test]
fn neighbours_on_nvme_are_those_of_the_extent_and_no_others() {
    let _alone = alone();
    let folder = folder();
    let open = || Plane::open(with_nvme(folder.path(), 256)).unwrap();
    let mut plane = open();
    let mut engine = Engine::attach(&mut plane, folder.path(), 1, 1_000_000);
    let per_extent = (EXTENT_BYTES / stride_of(1_000_000).unwrap()) as u32;
    for first in (0..2 * per_extent).step_by(30) {
        put_on_nvme(&mut plane, &mut engine, first..(first + 30).min(2 * per_extent));
    }
    let check = |plane: &Plane, all: u32| {
        let of_first = plane.nvme_neighbours(&[key16(0)], 1);
        let of_last = plane.nvme_neighbours(&[key16(2 * per_extent - 1)], 1);
        assert!(of_first.contains(&key16(0)) && !of_first.contains(&key16(2 * per_extent - 1)));
        assert_eq!(of_first.len() + of_last.len(), all as usize);
        assert_eq!(plane.nvme_neighbours(&[key16(0), key16(2 * per_extent - 1)], 2).len(), all as usize);
    };
    check(&plane, 2 * per_extent);
    assert_eq!(evicted(&plane.evict_nvme(&[key16(1), key16(2)])), 2);
    check(&plane, 2 * per_extent - 2);
    drop(plane);
    // From a surviving index, and from the disk alone.
    check(&open(), 2 * per_extent - 2);
    std::fs::remove_file(folder.path().join("index/index")).unwrap();
    let mut plane = open();
    until(&mut plane, "the scan", |plane, _| plane.is_scan_done());
    check(&plane, 2 * per_extent);
}

/// An engine stopped between its lookups and its ticket.
#[test]
fn one_that_stands_still_in_a_step_stops_no_recycling_for_ever() {
    let _alone = alone();
    let folder = folder();
    let mut plane = Plane::open(options(folder.path())).unwrap();
    let mut stopped = Engine::attach(&mut plane, folder.path(), 1, PAYLOAD);
    let mut other = Engine::attach(&mut plane, folder.path(), 2, PAYLOAD);
    for number in 0..4 {
        until(&mut plane, "a lease", |plane, _| other.offer(plane, number));
    }
    until(&mut plane, "the chunks", |_, _| other.check(3));
    // One of its tickets is older: that one still pins.
    stopped.scheduler.begin_step();
    let (old, slots) = stopped.scheduler.take_ticket(&key(3)).unwrap().unwrap();
    stopped.scheduler.end_step();
    let mut answer = [9];
    stopped.scheduler.lookup(&key(1), &mut answer).unwrap();
    assert_eq!(answer, [HIT]);

    assert_eq!(evicted(&plane.evict_dram(&[key16(1), key16(3)], false)), 2);
    until(&mut plane, "the recycling", |plane, _| plane.stats().recycling_slots == 1);
    assert_eq!((plane.stats().steps_expelled, plane.stats().engines_expelled), (1, 1));
    // What is evicted from now on does not wait again, and chunk 0 is there but not for that step.
    plane.evict_dram(&[key16(2)], false);
    let began = Instant::now();
    until(&mut plane, "the next recycling", |plane, _| plane.stats().recycling_slots == 1);
    assert!(began.elapsed() < Duration::from_secs(3));
    assert_eq!(stopped.scheduler.take_ticket(&key(0)).unwrap(), None);
    stopped.scheduler.lookup(&key(0), &mut answer).unwrap();
    assert_eq!(answer, [MISS]);
    stopped.scheduler.end_step();

    // Its next step is as good as any, and the old ticket's bytes are what they were.
    assert!(stopped.check(0));
    assert_eq!(plane.stats().engines_expelled, 0);
    let mut found = vec![0; PAYLOAD];
    stopped.arena.read_exact_at(&mut found, u64::from(slots[0]) * PAGE_BYTES + PAGE_BYTES).unwrap();
    assert!(found == payload(3, PAYLOAD));
    stopped.rank.ack(old).unwrap();
    until(&mut plane, "the last slot", |plane, _| plane.stats().recycling_slots == 0);
}

#[test]
fn in_a_void_step_nothing_is_pinned() {
    let _alone = alone();
    let folder = folder();
    let mut plane = Plane::open(options(folder.path())).unwrap();
    let mut engine = Engine::attach(&mut plane, folder.path(), 1, PAYLOAD);
    until(&mut plane, "a lease", |plane, _| engine.offer(plane, 1));
    until(&mut plane, "its chunk", |_, _| engine.check(1));
    until(&mut plane, "its ticket", |_, _| engine.scheduler.open_tickets() == 0);
    let file = std::fs::OpenOptions::new().write(true).open(control_path(folder.path(), &[1; 16])).unwrap();
    let at = CtlHeader::FIELDS.iter().find(|(name, ..)| *name == "expelled_epoch").unwrap().1;
    file.write_all_at(&u64::MAX.to_le_bytes(), at as u64).unwrap();
    assert!(!engine.check(1));
    assert_eq!(engine.scheduler.open_tickets(), 0);
}
