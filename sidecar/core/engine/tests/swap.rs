//! Feature `swap-chunks`: a promoted chunk comes back with the payload of the one promoted before it, verified all the same. It is what an oracle of
//! wrong output must notice; no release is built with it.
#![allow(clippy::unwrap_used)]

use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use spillway_engine::attach::{Attachment, HIT};
use spillway_engine::key::{Key36, derive};
use spillway_engine::nvme::{Direct, NvmeConfig, RungKind};
use spillway_engine::plane::{Event, OpenOptions, Outcome, Plane};

const PAYLOAD: usize = 100_000;
const FINGERPRINT: [u8; 32] = [7; 32];

fn key(number: u8) -> Key36 {
    let mut key = [number; 36];
    key[32..].fill(0);
    key
}

fn until(plane: &mut Plane, what: &str, mut done: impl FnMut(&mut Plane, &[Event]) -> bool) {
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        let events = plane.poll(Duration::from_millis(10), 1024);
        if done(plane, &events) {
            return;
        }
        assert!(Instant::now() < end, "waited 10 s for {what}");
    }
}

#[test]
fn promoted_payloads_are_exchanged_with_the_one_before() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    let config = NvmeConfig {
        capacity_bytes: 128 << 20,
        slots: 1,
        io_threads: 2,
        direct: Direct::Auto,
        best_rung: RungKind::RegisteredUring,
        deadline: Duration::from_secs(10),
        reserve_percent: 0,
    };
    let mut plane = Plane::open(OpenOptions {
        root: root.to_owned(),
        arena_bytes: 64 << 20,
        index_bytes: 1 << 20,
        nvme: Some((root.join("nvme"), config)),
        lock_wait: Duration::ZERO,
        foreign_read_quarantine: Duration::from_secs(60),
        dead_grace: Duration::from_secs(2),
    })
    .unwrap();
    let mut scheduler = Attachment::new(root, &[1; 16], 1, 1, -1).unwrap();
    let mut rank = Attachment::new(root, &[1; 16], 1, 1, 0).unwrap();
    rank.declare_slices(&[PAYLOAD as u64]).unwrap();
    until(&mut plane, "geometry", |_, _| scheduler.geometry().is_some());
    assert!(scheduler.try_map().unwrap() && scheduler.set_fingerprint(FINGERPRINT).unwrap());
    assert_eq!(plane.grant(0, 0, 2), 2);

    let arena = std::fs::OpenOptions::new().read(true).write(true).open(root.join("arena/arena")).unwrap();
    for (number, slot) in [1u8, 2].into_iter().zip(scheduler.lease(0, 2).unwrap()) {
        arena.write_all_at(&[number; PAYLOAD], u64::from(slot) * 4096 + 4096).unwrap();
        scheduler.publish(&key(number), 0, &[slot]).unwrap();
    }
    let names = [derive(&key(1), &FINGERPRINT), derive(&key(2), &FINGERPRINT)];
    until(&mut plane, "two chunks", |plane, _| plane.stats().dram.chunks == 2);
    assert_eq!(plane.write(&names), [true, true]);
    until(&mut plane, "two writes", |plane, _| plane.stats().nvme.chunks == 2);
    assert_eq!(plane.evict_dram(&names, false), [true, true]);

    for name in names {
        assert_eq!(plane.read(&[name]), [true]);
        until(&mut plane, "a read", |_, events| {
            let mut ends = events.iter().filter_map(|event| match event {
                Event::Read { outcome, .. } => Some(*outcome),
                _ => None,
            });
            let end = ends.next();
            assert!(end.is_none_or(|end| end == Outcome::Ok));
            end.is_some()
        });
    }
    let mut answers = [0; 2];
    scheduler.lookup(&[key(1), key(2)].concat(), &mut answers).unwrap();
    assert_eq!(answers, [HIT; 2]);
    let (_, slots) = scheduler.take_ticket(&[key(1), key(2)].concat()).unwrap().unwrap();
    for slot in slots {
        let mut found = vec![0; PAYLOAD];
        arena.read_exact_at(&mut found, u64::from(slot) * 4096 + 4096).unwrap();
        assert!(found == [1; PAYLOAD], "slot {slot} does not hold the payload promoted first");
    }
}
