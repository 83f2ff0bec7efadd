//! What hashing costs: one core's xxh3-128 over memory that is in its caches and that is not, and the CPU per GB of a plane's three hops, split into
//! the plane's own thread and all others (with direct I/O, or without where the folder has none).
//!
//! `cargo bench --bench digest [-- FOLDER]`; 640 MiB in /dev/shm and 600 MiB in the folder.
#![allow(clippy::print_stdout, clippy::unwrap_used)]

#[path = "../tests/plane_kit/mod.rs"]
mod plane_kit;

use std::hint::black_box;
use std::path::Path;

use plane_kit::*;
use rustix::time::{ClockId, clock_gettime};
use spillway_engine::checksum;
use spillway_engine::layout::EXTENT_BYTES;
use spillway_engine::nvme::{Direct, NvmeConfig, RungKind};
use spillway_engine::plane::{OpenOptions, Plane};

const PAYLOAD: usize = (1 << 20) - 4096;
const CHUNKS: u32 = 400;
const BATCH: usize = 50;
const COLD_BYTES: usize = 512 << 20;

/// CPU seconds of this thread and of the whole process.
fn cpu() -> (f64, f64) {
    let seconds = |clock| {
        let now = clock_gettime(clock);
        now.tv_sec as f64 + now.tv_nsec as f64 / 1e9
    };
    (seconds(ClockId::ThreadCPUTime), seconds(ClockId::ProcessCPUTime))
}

fn digest(what: &str, bytes: &[u8], chunk: usize, rounds: usize) {
    let before = cpu().0;
    for _ in 0..rounds {
        bytes.chunks(chunk).for_each(|chunk| {
            black_box(checksum::payload(chunk));
        });
    }
    let seconds = cpu().0 - before;
    let gb = (bytes.len() * rounds) as f64 / 1e9;
    println!("xxh3-128 of {what}: {:.1} GB/s a core, {:.3} core-s/GB", gb / seconds, seconds / gb);
}

struct Hop {
    plane_seconds: f64,
    others_seconds: f64,
}

impl Hop {
    fn measure(&mut self, work: impl FnOnce()) {
        let before = cpu();
        work();
        let after = cpu();
        self.plane_seconds += after.0 - before.0;
        self.others_seconds += (after.1 - before.1) - (after.0 - before.0);
    }

    fn print(&self, what: &str) {
        let gb = f64::from(CHUNKS) * PAYLOAD as f64 / 1e9;
        println!("{what}: {:.3} core-s/GB on the plane's thread, {:.3} on others", self.plane_seconds / gb, self.others_seconds / gb);
    }
}

fn hop() -> Hop {
    Hop { plane_seconds: 0.0, others_seconds: 0.0 }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let warm = vec![7; 256 << 10];
    digest("256 KiB again and again", &warm, warm.len(), 4000);
    let cold = vec![7; COLD_BYTES];
    digest("1 MiB pieces of 512 MiB", &cold, 1 << 20, 4);
    drop(cold);

    let parent = arguments.first().map_or(env!("CARGO_TARGET_TMPDIR"), String::as_str);
    let disk = tempfile::tempdir_in(parent).unwrap();
    for best_rung in [RungKind::RegisteredUring, RungKind::Uring, RungKind::Threads] {
        hops(&disk.path().join(best_rung.name()), best_rung);
    }
}

fn hops(nvme: &Path, best_rung: RungKind) {
    let root = folder();
    let config = NvmeConfig {
        capacity_bytes: 600 << 20,
        slots: 1,
        io_threads: 8,
        direct: Direct::Auto,
        best_rung,
        deadline: std::time::Duration::from_secs(30),
        reserve_percent: 0,
    };
    let mut plane =
        Plane::open(OpenOptions { arena_bytes: 8 * EXTENT_BYTES, nvme: Some((nvme.to_owned(), config)), ..options(root.path()) }).unwrap();
    let mut engine = Engine::attach(&mut plane, root.path(), 1, PAYLOAD);
    until(&mut plane, "the arena", |plane, _| plane.stats().faulted_bytes == 8 * EXTENT_BYTES);
    let numbers: Vec<u32> = (0..CHUNKS).collect();
    let keys: Vec<_> = numbers.iter().map(|number| key16(*number)).collect();
    let (mut publish, mut write, mut read) = (hop(), hop(), hop());
    for batch in numbers.chunks(BATCH) {
        for number in batch {
            assert!(engine.offer(&mut plane, *number));
        }
        let named: Vec<_> = batch.iter().map(|number| key16(*number)).collect();
        publish.measure(|| drop(until(&mut plane, "the chunks", |plane, _| plane.tiers(&named).iter().all(|bits| *bits == 1))));
    }
    write.measure(|| {
        until(&mut plane, "the writes", |plane, _| {
            plane.write(&keys);
            plane.tiers(&keys).iter().all(|bits| *bits == 3)
        });
    });
    assert_eq!(evicted(&plane.evict_dram(&keys, false)), keys.len());
    until(&mut plane, "the recycling", |plane, _| plane.stats().recycling_slots == 0);
    read.measure(|| {
        assert!(plane.read(&keys).iter().all(|started| *started));
        until(&mut plane, "the reads", |plane, _| plane.stats().reads_in_flight == 0);
    });
    assert!(plane.tiers(&keys).iter().all(|bits| *bits == 3));
    let (rung, _) = plane.nvme_rung().unwrap();
    println!("{rung}, direct {}:", plane.report().nvme.direct);
    publish.print("  publish");
    write.print("  write");
    read.print("  read");
}
