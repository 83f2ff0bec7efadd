//! A chunk is hashed when it is published and when it comes back, not when it is written: what happens to its bytes in between is found before a HIT.
#![allow(clippy::unwrap_used)]

mod plane_kit;

use std::os::unix::fs::FileExt;

use plane_kit::*;
use spillway_engine::attach::{HIT, MISS};
use spillway_engine::layout::PAGE_BYTES;
use spillway_engine::plane::{Event, Outcome, Plane, TIER_DRAM, TIER_NVME};

const PAYLOAD: usize = 256 << 10;

/// Publish one chunk; its slot.
fn publish(plane: &mut Plane, engine: &mut Engine, number: u32) -> u32 {
    until(plane, "a lease", |plane, _| plane.grant(engine.tag, 0, 1) == 1);
    let slot = engine.scheduler.lease(0, 1).unwrap()[0];
    engine.arena.write_all_at(&payload(number, PAYLOAD), u64::from(slot) * PAGE_BYTES + PAGE_BYTES).unwrap();
    assert_eq!(engine.scheduler.publish(&key(number), 0, &[slot]).unwrap(), 1);
    until(plane, "the chunk", |plane, _| plane.tiers(&[key16(number)]) == [TIER_DRAM]);
    slot
}

fn write_evict_and_read_back(plane: &mut Plane, number: u32) -> Outcome {
    let keys = [key16(number)];
    assert_eq!(plane.write(&keys), [true]);
    until(plane, "the write", |plane, _| plane.tiers(&keys) == [TIER_DRAM | TIER_NVME]);
    assert_eq!(evicted(&plane.evict_dram(&keys, false)), 1);
    until(plane, "the recycling", |plane, _| plane.stats().recycling_slots == 0);
    assert_eq!(plane.read(&keys), [true]);
    let mut told = None;
    until(plane, "the read", |_, events| {
        told = events.iter().find_map(|event| match event {
            Event::Read { outcome, .. } => Some(*outcome),
            _ => None,
        });
        told.is_some()
    });
    told.unwrap()
}

#[test]
fn bytes_that_changed_after_their_publication_never_come_back_as_a_hit() {
    let folder = folder();
    let mut plane = Plane::open(with_nvme(folder.path(), 65)).unwrap();
    let mut engine = Engine::attach(&mut plane, folder.path(), 1, PAYLOAD);
    publish(&mut plane, &mut engine, 1);
    let changed = publish(&mut plane, &mut engine, 2);
    engine.arena.write_all_at(&[0xee; 8], u64::from(changed) * PAGE_BYTES + PAGE_BYTES + 100_000).unwrap();
    assert_eq!(write_evict_and_read_back(&mut plane, 1), Outcome::Ok);
    assert_eq!(write_evict_and_read_back(&mut plane, 2), Outcome::CorruptPayload);
    assert_eq!((engine.answer(1), engine.answer(2)), (HIT, MISS));
    assert!(engine.check(1), "the other chunk is itself");
    assert_eq!(plane.tiers(&[key16(2)]), [0], "and nobody will read it again");
}

#[test]
fn a_header_that_changed_is_not_written_at_all() {
    let folder = folder();
    let mut plane = Plane::open(with_nvme(folder.path(), 65)).unwrap();
    let mut engine = Engine::attach(&mut plane, folder.path(), 1, PAYLOAD);
    let slot = publish(&mut plane, &mut engine, 1);
    engine.arena.write_all_at(&[0xee; 8], u64::from(slot) * PAGE_BYTES + 20).unwrap();
    assert_eq!(plane.write(&[key16(1)]), [false]);
    until(&mut plane, "the recycling", |plane, _| plane.stats().recycling_slots == 0);
    assert_eq!((engine.answer(1), plane.tiers(&[key16(1)])), (MISS, vec![0]));
}
