//! What an engine can go on with while no sidecar runs.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used)]

mod plane_kit;

use plane_kit::*;
use spillway_engine::layout::MAX_TICKETS;
use spillway_engine::plane::Plane;

const PAYLOAD: usize = 100_000;
const LOADS: usize = 1_000;

#[test]
fn a_thousand_loads_go_through_without_a_sidecar_and_a_successor_takes_over() {
    let folder = folder();
    let mut plane = Plane::open(options(folder.path())).unwrap();
    let mut engine = Engine::attach(&mut plane, folder.path(), 1, PAYLOAD);
    for number in 0..4 {
        until(&mut plane, "a lease", |plane, _| engine.offer(plane, number));
    }
    until(&mut plane, "the chunks", |_, _| (0..4).all(|number| engine.answer(number) == 1));
    drop(plane);

    for load in 0..LOADS {
        assert!(engine.check(load as u32 % 4), "load {load} found no ticket");
    }
    assert_eq!(engine.scheduler.open_tickets(), 0);

    // A successor finds places that were ended and taken again, and pins what is open, not more.
    engine.scheduler.begin_step();
    let (open, _) = engine.scheduler.take_ticket(&key(0)).unwrap().unwrap();
    engine.scheduler.end_step();
    let mut plane = Plane::open(options(folder.path())).unwrap();
    assert!(plane.report().adopted);
    assert_eq!(evicted(&plane.evict_dram(&[key16(0), key16(1)], false)), 2);
    until(&mut plane, "the recycling of what nobody holds", |plane, _| plane.stats().recycling_slots == 1);
    engine.rank.ack(open).unwrap();
    until(&mut plane, "the recycling of what was loaded", |plane, _| plane.stats().recycling_slots == 0);
}

#[test]
fn a_ticket_that_a_rank_still_copies_under_is_never_taken_for_the_next_load() {
    let folder = folder();
    let mut plane = Plane::open(options(folder.path())).unwrap();
    let mut engine = Engine::attach(&mut plane, folder.path(), 1, PAYLOAD);
    until(&mut plane, "a lease", |plane, _| engine.offer(plane, 0));
    until(&mut plane, "the chunk", |_, _| engine.answer(0) == 1);
    drop(plane);

    engine.scheduler.begin_step();
    let tickets: Vec<u64> = (0..MAX_TICKETS).map(|_| engine.scheduler.take_ticket(&key(0)).unwrap().unwrap().0).collect();
    assert!(engine.scheduler.take_ticket(&key(0)).unwrap().is_none(), "all are open");
    assert_eq!(engine.scheduler.open_tickets(), MAX_TICKETS);
    engine.rank.ack(tickets[17]).unwrap();
    assert_eq!(engine.scheduler.open_tickets(), MAX_TICKETS - 1);
    let (next, _) = engine.scheduler.take_ticket(&key(0)).unwrap().unwrap();
    assert_eq!(next & 0xff, tickets[17] & 0xff, "in the place of the one that was acknowledged");
    assert_ne!(next, tickets[17]);
    assert!(engine.scheduler.take_ticket(&key(0)).unwrap().is_none(), "all are open again");
    engine.scheduler.end_step();
}
