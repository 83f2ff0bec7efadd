//! What engines ask for is bounded and done once, and one that stands still stops nobody else.
#![allow(clippy::unwrap_used)]

mod plane_kit;

use std::time::Duration;

use plane_kit::*;
use spillway_engine::plane::{Event, Kind, Plane};

const PAYLOAD: usize = 100_000;

fn promotions(events: &[Event]) -> Vec<Event> {
    events.iter().copied().filter(|event| event.kind == Kind::Promote).collect()
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
    assert!(told.iter().all(|event| event.c <= 600_000), "nobody waits for {} ms", told[0].c);

    // Once read and evicted again they can be asked for anew.
    plane.read(&(0..8).map(key16).collect::<Vec<_>>());
    until(&mut plane, "the reads", |plane, _| plane.stats().dram.chunks == 8);
    assert_eq!(plane.evict_dram(&(0..8).map(key16).collect::<Vec<_>>()), 8);
    engine.scheduler.promote(&asked, &[0], 1000).unwrap();
    let mut told = 0;
    until(&mut plane, "the tellings", |_, events| {
        told += promotions(events).len();
        told == 8
    });
}
