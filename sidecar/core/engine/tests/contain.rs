//! A panic while one engine is served costs that engine its cache, and nobody else anything.
//!
//! It is let happen in this test binary, run again with a point named in its environment (`a_pod`, which does nothing unless told to).
#![allow(clippy::unwrap_used)]

mod plane_kit;

use std::process::Command;
use std::time::Duration;

use plane_kit::*;
use spillway_engine::control::{REFUSED_FAULT, STATE_ACCEPTED, STATE_REFUSED};
use spillway_engine::plane::{Event, Plane};

const PAYLOAD: usize = 100_000;

/// Not a test of its own.
#[test]
fn a_pod() {
    if std::env::var_os("SPILLWAY_PANIC_AT").is_none() {
        return;
    }
    let folder = folder();
    let mut plane = Plane::open(options(folder.path())).unwrap();
    let mut other = Engine::attach(&mut plane, folder.path(), 1, PAYLOAD);
    let mut broken = Engine::attach(&mut plane, folder.path(), 2, PAYLOAD);
    for number in 0..8 {
        until(&mut plane, "a lease", |plane, _| other.offer(plane, number));
        until(&mut plane, "its chunk", |_, _| other.check(number));
        if broken.scheduler.state().0 == STATE_ACCEPTED {
            broken.offer(&mut plane, 100 + number);
            plane.poll(Duration::from_millis(20), 1024);
            broken.check(100 + number);
        }
    }
    until(&mut plane, "the refusal", |_, _| {
        (broken.scheduler.state(), other.scheduler.state().0) == ((STATE_REFUSED, REFUSED_FAULT), STATE_ACCEPTED)
    });
    assert_eq!(plane.stats().panics_contained, 1);

    // Its successor does not come to it again, though the operation is still at the tail.
    drop(plane);
    let mut plane = Plane::open(options(folder.path())).unwrap();
    assert_eq!(plane.stats().panics_contained, 0);
    assert!((0..8).all(|number| other.check(number)));
    drop(broken);
    let events = until(&mut plane, "the burial", |plane, _| plane.stats().engines.len() == 1);
    assert_eq!(count!(events, Event::EngineDead { .. }), 1);
    until(&mut plane, "the tickets", |plane, _| plane.stats().open_tickets + plane.stats().recycling_slots == 0);
    let (free, total) = plane.dram_slots(0);
    assert_eq!(free + plane.stats().leases_out + plane.stats().dram.chunks, total, "a slot was lost");
}

fn let_it_panic_at(point: &str) {
    let mut pod = Command::new(std::env::current_exe().unwrap());
    let done = pod.args(["--exact", "a_pod", "--nocapture"]).env("SPILLWAY_PANIC_AT", point).output().unwrap();
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success() && said.contains("a test wants a panic"), "{point}: {said}");
}

#[test]
fn a_panic_in_an_operation_refuses_its_engine() {
    // The visits alternate: the honest engine's first.
    for point in ["sealed:4", "inserted:2", "before-tail:4"] {
        let_it_panic_at(point);
    }
}
