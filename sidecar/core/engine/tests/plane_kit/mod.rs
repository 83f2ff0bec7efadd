//! A plane and engines in one process: what tests of whole planes share.
#![allow(dead_code, reason = "each test file uses its share")]

use std::fs::{File, OpenOptions as FileOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use spillway_engine::attach::Attachment;
use spillway_engine::control;
use spillway_engine::key::{Key16, Key36, derive};
use spillway_engine::layout::{EXTENT_BYTES, PAGE_BYTES, ctl};
use spillway_engine::nvme::{Direct, NvmeConfig, RungKind};
use spillway_engine::plane::{Event, OpenOptions, Plane};
use tempfile::TempDir;

pub const FINGERPRINT: [u8; 32] = [7; 32];

/// Tests that count descriptors or map many files: one at a time in a process.
pub fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// In memory where there is a tmpfs, as in a pod: only there does a truncated mapping fault at once.
pub fn folder() -> TempDir {
    tempfile::tempdir_in(if Path::new("/dev/shm").is_dir() { "/dev/shm" } else { "/tmp" }).unwrap()
}

pub fn options(root: &Path) -> OpenOptions {
    OpenOptions {
        root: root.to_owned(),
        arena_bytes: EXTENT_BYTES,
        index_bytes: 1 << 20,
        nvme: None,
        lock_wait: Duration::from_secs(5),
        foreign_read_quarantine: Duration::from_secs(60),
        dead_grace: Duration::from_millis(200),
    }
}

pub fn with_nvme(root: &Path, capacity_mib: u64) -> OpenOptions {
    let config = NvmeConfig {
        capacity_bytes: capacity_mib << 20,
        slots: 1,
        io_threads: 2,
        direct: Direct::Off,
        best_rung: RungKind::RegisteredUring,
        deadline: Duration::from_secs(10),
        reserve_percent: 0,
    };
    OpenOptions { nvme: Some((root.join("nvme"), config)), ..options(root) }
}

pub fn key(number: u32) -> Key36 {
    let mut key = [0x5a; 36];
    key[..4].copy_from_slice(&number.to_le_bytes());
    key[4..8].copy_from_slice(&number.wrapping_mul(0x9E37_79B9).to_le_bytes());
    key[32..].fill(0);
    key
}

pub fn key16(number: u32) -> Key16 {
    derive(&key(number), &FINGERPRINT)
}

pub fn payload(number: u32, bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| (number as usize).wrapping_mul(31).wrapping_add(at) as u8).collect()
}

/// Poll until it is done; all events seen.
pub fn until(plane: &mut Plane, what: &str, mut done: impl FnMut(&mut Plane, &[Event]) -> bool) -> Vec<Event> {
    let end = Instant::now() + Duration::from_secs(30);
    let mut seen = Vec::new();
    loop {
        let events = plane.poll(Duration::from_millis(2), 1 << 16);
        seen.extend_from_slice(&events);
        if done(plane, &events) {
            return seen;
        }
        assert!(Instant::now() < end, "waited 30 s for {what}");
    }
}

pub fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

pub fn control_path(root: &Path, id: &[u8; 16]) -> PathBuf {
    control::path_of(&root.join("run"), id)
}

/// A file of the right size that is no control file yet.
pub fn false_control_file(root: &Path, id: &[u8; 16]) -> File {
    let file = FileOptions::new().read(true).write(true).create(true).truncate(true).open(control_path(root, id)).unwrap();
    file.set_len(ctl::FILE_BYTES as u64).unwrap();
    file
}

/// An engine of one rank and one group.
pub struct Engine {
    pub scheduler: Attachment,
    pub rank: Attachment,
    pub arena: File,
    pub tag: u8,
    pub payload_bytes: usize,
}

impl Engine {
    /// Attach and wait for the geometry.
    pub fn attach(plane: &mut Plane, root: &Path, id: u8, payload_bytes: usize) -> Self {
        let id = [id; 16];
        let mut scheduler = Attachment::new(root, &id, 1, 1, -1).unwrap();
        let mut rank = Attachment::new(root, &id, 1, 1, 0).unwrap();
        rank.declare_slices(&[payload_bytes as u64]).unwrap();
        until(plane, "geometry", |_, _| scheduler.geometry().is_some());
        assert!(scheduler.try_map().unwrap() && scheduler.set_fingerprint(FINGERPRINT).unwrap());
        let tag = scheduler.tag().unwrap() as u8;
        let arena = FileOptions::new().read(true).write(true).open(root.join("arena/arena")).unwrap();
        Self { scheduler, rank, arena, tag, payload_bytes }
    }

    /// Fill a leased slot and hand it over; false: no lease or no room in the ring.
    pub fn offer(&mut self, plane: &mut Plane, number: u32) -> bool {
        if self.scheduler.granted(0).unwrap() == 0 && plane.grant(self.tag, 0, 1) == 0 {
            return false;
        }
        let slot = self.scheduler.lease(0, 1).unwrap()[0];
        let at = u64::from(slot) * PAGE_BYTES + PAGE_BYTES;
        self.arena.write_all_at(&payload(number, self.payload_bytes), at).unwrap();
        self.scheduler.publish(&key(number), 0, &[slot]).unwrap() == 1
    }

    pub fn answer(&mut self, number: u32) -> u8 {
        let mut answer = [9];
        self.scheduler.lookup(&key(number), &mut answer).unwrap();
        self.scheduler.end_step();
        answer[0]
    }

    /// Read a chunk under a ticket and compare every byte; false: it is no HIT.
    pub fn check(&mut self, number: u32) -> bool {
        self.scheduler.begin_step();
        let ticket = self.scheduler.take_ticket(&key(number)).unwrap();
        self.scheduler.end_step();
        let Some((id, slots)) = ticket else { return false };
        let mut found = vec![0; self.payload_bytes];
        self.arena.read_exact_at(&mut found, u64::from(slots[0]) * PAGE_BYTES + PAGE_BYTES).unwrap();
        assert!(found == payload(number, self.payload_bytes), "chunk {number} is not itself");
        self.rank.ack(id).unwrap();
        true
    }
}

/// How many of the chunks were taken.
pub fn evicted(accepted: &[bool]) -> usize {
    accepted.iter().filter(|accepted| **accepted).count()
}

/// Put chunks on NVMe alone.
pub fn put_on_nvme(plane: &mut Plane, engine: &mut Engine, numbers: std::ops::Range<u32>) {
    let keys: Vec<Key16> = numbers.clone().map(key16).collect();
    for number in numbers {
        until(plane, "a lease", |plane, _| engine.offer(plane, number));
    }
    until(plane, "the chunks", |plane, _| plane.tiers(&keys).iter().all(|bits| bits & 1 == 1));
    until(plane, "the writes", |plane, _| {
        plane.write(&keys);
        plane.tiers(&keys).iter().all(|bits| *bits == 3)
    });
    assert_eq!(evicted(&plane.evict_dram(&keys, false)), keys.len());
    until(plane, "the recycling", |plane, _| plane.stats().recycling_slots == 0);
}

/// How many events match a pattern.
#[macro_export]
macro_rules! count {
    ($events:expr, $pattern:pat) => {
        $events.iter().filter(|event| matches!(event, $pattern)).count()
    };
}
