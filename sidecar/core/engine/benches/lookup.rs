//! Lookup in an index of a million entries, as an engine does it: batches of random prefixes, hits and misses mixed. Target: 0.15 us per key p50.
//!
//! `cargo bench --bench lookup`; prints the median and the 99th percentile over batches.
#![allow(clippy::print_stdout, clippy::unwrap_used)]

use std::time::{Duration, Instant};

use spillway_engine::attach::Attachment;
use spillway_engine::index::Index;
use spillway_engine::key::{Key36, KeyMap};
use spillway_engine::layout::NO_NVME;
use spillway_engine::plane::{OpenOptions, Plane};
use spillway_engine::seqlock::{EntryValue, LIVE};

const CHUNKS: u64 = 700_000;
const FINGERPRINT: [u8; 32] = [7; 32];

/// A block hash for a number: splitmix, four times.
fn key(number: u64) -> Key36 {
    let mut key = [0; 36];
    let mut state = number;
    for word in key[..32].chunks_exact_mut(8) {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        word.copy_from_slice(&(mixed ^ (mixed >> 31)).to_le_bytes());
    }
    key
}

fn attach(plane: &mut Plane, root: &std::path::Path) -> Vec<Attachment> {
    let mut scheduler = Attachment::new(root, &[1; 16], 1, 1, -1).unwrap();
    let mut rank = Attachment::new(root, &[1; 16], 1, 1, 0).unwrap();
    rank.declare_slices(&[100_000]).unwrap();
    while scheduler.geometry().is_none() {
        plane.poll(Duration::from_millis(10), 64);
    }
    assert!(scheduler.try_map().unwrap() && scheduler.set_fingerprint(FINGERPRINT).unwrap());
    vec![scheduler, rank]
}

fn main() {
    let folder = tempfile::tempdir_in("/dev/shm").unwrap();
    let root = folder.path();
    let options = OpenOptions {
        root: root.to_owned(),
        arena_bytes: 64 << 20,
        index_bytes: 65 << 20,
        nvme: None,
        lock_wait: Duration::ZERO,
        foreign_read_quarantine: Duration::from_secs(60),
        dead_grace: Duration::from_secs(2),
    };
    let mut plane = Plane::open(options).unwrap();
    let mut engine = attach(&mut plane, root);
    let index = Index::open(&root.join("index/index"), true).unwrap();
    let mut map = KeyMap::new(FINGERPRINT);
    let mut refused = 0;
    for number in 0..CHUNKS {
        let key = map.key16(&key(number));
        let entry = EntryValue { state: LIVE, key: [key.0, key.1], nvme_slot: NO_NVME, ..EntryValue::default() };
        refused += u64::from(index.insert(&entry).is_err());
    }
    for batch in [1, 64, 1024] {
        measure(&mut engine[0], batch);
    }
    println!("{} entries of {}, {refused} refused", CHUNKS - refused, index.entry_count());
}

fn measure(scheduler: &mut Attachment, batch: usize) {
    let mut answers = vec![0; batch];
    let mut per_key_ns = Vec::new();
    for round in 0..2_000_000 / batch.max(64) {
        // Every tenth key is unknown.
        let number = |at: usize| (round * batch + at) as u64 * 7919 % CHUNKS + if at % 10 == 9 { CHUNKS } else { 0 };
        let keys: Vec<u8> = (0..batch).flat_map(|at| key(number(at))).collect();
        let start = Instant::now();
        scheduler.lookup(&keys, &mut answers).unwrap();
        per_key_ns.push(start.elapsed().as_nanos() as f64 / batch as f64);
        scheduler.end_step();
    }
    per_key_ns.sort_unstable_by(f64::total_cmp);
    let at = |share: f64| per_key_ns[(per_key_ns.len() as f64 * share) as usize] / 1000.0;
    println!("batch of {batch:4}: {:.3} us per key p50, {:.3} p99", at(0.5), at(0.99));
}
