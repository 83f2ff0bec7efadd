//! What a request waits for when its chunks are on NVMe: from the engine's PROMOTE in the ring until every rank has acknowledged the verified chunk. Ring,
//! plane, pool, checksum, index, ticket and recycling are in it; the daemon's Python and the copy to the device are not. Beside fio's
//! io_uring on the same file, block size and depth, in interleaved pairs.
//!
//! `cargo bench --bench swap_in [-- FOLDER [PAIRS [DEPTH]]]`; needs fio on PATH and 0.6 GiB in the folder, which must be on the disk to measure.
#![allow(clippy::print_stdout, clippy::unwrap_used)]

use std::collections::HashMap;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use spillway_engine::attach::Attachment;
use spillway_engine::key::{Key16, Key36, derive};
use spillway_engine::layout::PAGE_BYTES;
use spillway_engine::nvme::{Direct, NvmeConfig, RungKind};
use spillway_engine::plane::{Event, OpenOptions, Outcome, Plane, TIER_DRAM, TIER_NVME};

const MIB: u64 = 1 << 20;
const DATA_BYTES: u64 = 512 * MIB;
const FINGERPRINT: [u8; 32] = [7; 32];

struct Pod {
    plane: Plane,
    scheduler: Attachment,
    rank: Attachment,
    /// Every chunk, in the order in which it is asked for.
    keys: Vec<(Key36, Key16)>,
    depth: usize,
}

impl Pod {
    /// A pod whose chunks are all on NVMe and none in DRAM.
    fn new(root: &Path, disk: &Path, stride: u64, depth: usize) -> Self {
        let config = NvmeConfig {
            capacity_bytes: DATA_BYTES + 64 * MIB,
            slots: 1,
            io_threads: depth.min(64),
            best_rung: RungKind::RegisteredUring,
            direct: Direct::Required,
            deadline: Duration::from_secs(30),
            reserve_percent: 0,
        };
        let mut plane = Plane::open(OpenOptions {
            root: root.to_owned(),
            arena_bytes: 256 * MIB,
            index_bytes: 4 * MIB,
            nvme: Some((disk.to_owned(), config)),
            lock_wait: Duration::ZERO,
            foreign_read_quarantine: Duration::from_secs(60),
            dead_grace: Duration::from_secs(2),
        })
        .unwrap();
        let mut scheduler = Attachment::new(root, &[1; 16], 1, 1, -1).unwrap();
        let mut rank = Attachment::new(root, &[1; 16], 1, 1, 0).unwrap();
        rank.declare_slices(&[stride - PAGE_BYTES]).unwrap();
        while scheduler.geometry().is_none() {
            plane.poll(Duration::from_millis(10), 64);
        }
        assert!(scheduler.try_map().unwrap() && scheduler.set_fingerprint(FINGERPRINT).unwrap());
        let keys = (0..DATA_BYTES / stride).map(|number| {
            let mut key = [0; 36];
            key[..8].copy_from_slice(&number.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes());
            (key, derive(&key, &FINGERPRINT))
        });
        let mut pod = Self { plane, scheduler, rank, keys: keys.collect(), depth };
        for at in 0..pod.keys.len() {
            pod.put_on_nvme(at);
        }
        pod
    }

    fn until(&mut self, mut done: impl FnMut(&mut Plane) -> bool) {
        let end = Instant::now() + Duration::from_secs(60);
        while !done(&mut self.plane) {
            self.plane.poll(Duration::from_millis(1), 1 << 12);
            assert!(Instant::now() < end, "nothing moves");
        }
    }

    fn put_on_nvme(&mut self, at: usize) {
        let (key, known) = self.keys[at];
        let tag = self.scheduler.tag().unwrap() as u8;
        self.until(|plane| plane.grant(tag, 0, 1) == 1);
        let slots = self.scheduler.lease(0, 1).unwrap();
        assert_eq!(self.scheduler.publish(&key, 0, &slots).unwrap(), 1);
        self.until(|plane| plane.tiers(&[known]) == [TIER_DRAM]);
        self.plane.write(&[known]);
        self.until(|plane| plane.tiers(&[known]) == [TIER_DRAM | TIER_NVME]);
        assert_eq!(self.plane.evict_dram(&[known], false), [true]);
    }

    /// Swap every chunk in once, `depth` at a time; GB/s.
    fn run(&mut self) -> f64 {
        let by_name: HashMap<Key16, Key36> = self.keys.iter().map(|(key, known)| (*known, *key)).collect();
        let started = Instant::now();
        let (mut next, mut acknowledged) = (0, 0);
        while acknowledged < self.keys.len() {
            let ask: Vec<u8> = self.keys[next..self.keys.len().min(acknowledged + self.depth)].iter().flat_map(|(key, _)| *key).collect();
            next += self.scheduler.promote(&ask, &[0], 30_000).unwrap();
            let (mut wanted, mut verified) = (Vec::new(), Vec::new());
            for event in self.plane.poll(Duration::from_millis(100), 1 << 12) {
                match event {
                    Event::Promote { key, .. } => wanted.push(key),
                    Event::Read { key, outcome, .. } => {
                        assert_eq!(outcome, Outcome::Ok);
                        verified.push(key);
                    }
                    _ => {}
                }
            }
            assert!(self.plane.read(&wanted).iter().all(|begun| *begun));
            for known in &verified {
                self.load(&by_name[known]);
            }
            acknowledged += verified.len();
            self.plane.evict_dram(&verified, false);
        }
        self.until(|plane| plane.stats().recycling_slots == 0);
        DATA_BYTES as f64 / started.elapsed().as_secs_f64() / 1e9
    }

    fn load(&mut self, key: &Key36) {
        let mut answer = [0];
        self.scheduler.lookup(key, &mut answer).unwrap();
        let (ticket, _slots) = self.scheduler.take_ticket(key).unwrap().unwrap();
        self.scheduler.end_step();
        self.rank.ack(ticket).unwrap();
    }
}

/// fio's random reads of the same file with io_uring; GB/s.
fn fio(disk: &Path, block: u64, depth: usize) -> f64 {
    let output = Command::new("fio")
        .args(["--name=peer", "--direct=1", "--minimal", "--randrepeat=0", "--rw=read", "--ioengine=io_uring"])
        .args([&format!("--bs={block}"), &format!("--iodepth={depth}"), &format!("--offset={MIB}"), &format!("--size={DATA_BYTES}")])
        .arg(format!("--filename={}", disk.join("slot-0/chunks").display()))
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let kib: f64 = text.split(';').nth(6).and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("fio said {text}"));
    kib * 1024.0 / 1e9
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let parent = arguments.first().map_or(env!("CARGO_TARGET_TMPDIR"), String::as_str);
    let pairs = arguments.get(1).map_or(3, |text| text.parse().unwrap());
    let depth = arguments.get(2).map_or(8, |text| text.parse().unwrap());
    for stride in [MIB, 4 * MIB] {
        let memory = tempfile::tempdir_in("/dev/shm").unwrap();
        let disk = tempfile::tempdir_in(parent).unwrap();
        let mut pod = Pod::new(memory.path(), disk.path(), stride, depth);
        let (mut ours, mut theirs, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
        for pair in 0..pairs {
            // The order alternates: caches and throttles of the machine below favour neither.
            let (one, other) = if pair % 2 == 0 {
                let one = pod.run();
                (one, fio(disk.path(), stride, depth))
            } else {
                let other = fio(disk.path(), stride, depth);
                (pod.run(), other)
            };
            ours.push(one);
            theirs.push(other);
            ratios.push(one / other);
        }
        let (one, other, ratio) = (median(&mut ours), median(&mut theirs), median(&mut ratios));
        let (low, high, mib) = (ratios[0], ratios[pairs - 1], stride / MIB);
        println!(
            "ring to acknowledged, {mib} MiB: {one:.2} GB/s, fio io_uring {other:.2} GB/s, ratio {ratio:.2} ({low:.2}..{high:.2}), {pairs} pairs"
        );
    }
}
