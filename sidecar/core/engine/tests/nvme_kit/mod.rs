//! A store with buffers of its own in place of an arena, and waits that say what they waited for.
#![allow(dead_code, reason = "each test file uses its share")]

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use spillway_engine::checksum;
use spillway_engine::header::SlotHeader;
use spillway_engine::io::PageBuffer;
use spillway_engine::nvme::{Completion, Direct, NvmeConfig, NvmeStore, OpenReport, RungKind, Urgency};
use tempfile::TempDir;

pub const PAGE: usize = 4096;
pub const MIB: u64 = 1 << 20;
pub const STRIDE: u64 = 256 << 10;
const PATIENCE: Duration = Duration::from_secs(20);

/// A folder on a real disk: O_DIRECT on a tmpfs proves nothing.
pub fn disk_folder() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder under the target folder")
}

pub fn config(capacity_mib: u64) -> NvmeConfig {
    NvmeConfig {
        capacity_bytes: capacity_mib * MIB,
        slots: 1,
        io_threads: 4,
        direct: Direct::Auto,
        best_rung: RungKind::RegisteredUring,
        deadline: Duration::from_secs(10),
        reserve_percent: 0,
    }
}

pub fn open(dir: &Path, config: &NvmeConfig) -> (Kit, OpenReport) {
    let (store, report) = NvmeStore::open(dir, config).expect("a store");
    (Kit { store, token: 0, seen: Vec::new() }, report)
}

pub fn file_of(dir: &Path) -> PathBuf {
    dir.join("slot-0/chunks")
}

/// Write over bytes of a closed store.
pub fn damage(dir: &Path, offset: u64, bytes: &[u8]) {
    let file = std::fs::OpenOptions::new().write(true).open(file_of(dir)).expect("the store's file");
    file.write_all_at(bytes, offset).expect("damage");
    file.sync_all().expect("sync");
}

pub fn peek(dir: &Path, offset: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    std::fs::File::open(file_of(dir)).expect("the store's file").read_exact_at(&mut bytes, offset).expect("read");
    bytes
}

/// A chunk as the plane seals it, told apart by `seed`.
pub fn chunk(seed: u8, stride: u64, position: u64, generation: u64) -> PageBuffer {
    let mut buffer = PageBuffer::new(stride as usize / PAGE);
    let mut payload = Vec::with_capacity(stride as usize - PAGE);
    for page in 1..stride as usize / PAGE {
        buffer.page_mut(page).fill(seed ^ (page as u8).rotate_left(3));
        payload.extend_from_slice(buffer.page(page));
    }
    let header = SlotHeader {
        flags: 0,
        length: stride - PAGE as u64,
        stride,
        key: [seed; 36],
        fingerprint: [9; 32],
        generation,
        position,
        payload_checksum: checksum::payload(&payload),
    };
    header.encode_into(buffer.page_mut(0));
    buffer
}

pub fn same(one: &PageBuffer, other: &PageBuffer) -> bool {
    one.len() == other.len() && (0..one.len() / PAGE).all(|page| one.page(page) == other.page(page))
}

pub struct Kit {
    pub store: NvmeStore,
    pub token: u64,
    /// Completions that no wait took yet.
    pub seen: Vec<Completion>,
}

impl Kit {
    /// The first completion that `pick` takes; others are kept.
    pub fn wait<T>(&mut self, what: &str, mut pick: impl FnMut(&Completion) -> Option<T>) -> T {
        let end = Instant::now() + PATIENCE;
        loop {
            self.store.completions(&mut self.seen);
            if let Some((at, found)) = self.seen.iter().enumerate().find_map(|(at, completion)| Some((at, pick(completion)?))) {
                self.seen.remove(at);
                return found;
            }
            assert!(Instant::now() < end, "waited for {what}, saw {:?}", self.seen);
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    pub fn next_token(&mut self) -> u64 {
        self.token += 1;
        self.token
    }

    pub fn submit_write(&mut self, slot: u64, chunk: &PageBuffer) -> u64 {
        let token = self.next_token();
        self.store.submit_write(token, slot, chunk.as_ptr(), chunk.len());
        token
    }

    pub fn submit_read(&mut self, slot: u64, into: &mut PageBuffer) -> u64 {
        let token = self.next_token();
        self.store.submit_read(Urgency::Demand, token, slot, into.as_mut_ptr(), into.len());
        token
    }

    pub fn written(&mut self, wanted: u64) -> Result<(), spillway_engine::nvme::IoFault> {
        self.wait("a write", |completion| match completion {
            Completion::Written { token, result } if *token == wanted => Some(*result),
            _ => None,
        })
    }

    pub fn arrived(&mut self, wanted: u64) -> Result<(), spillway_engine::nvme::IoFault> {
        self.wait("a read", |completion| match completion {
            Completion::Read { token, result } if *token == wanted => Some(result.map(|_| ())),
            _ => None,
        })
    }

    /// Allocate, seal and write; the slot.
    pub fn put(&mut self, seed: u8, stride: u64) -> u64 {
        let slot = self.store.alloc(stride).expect("a free slot");
        let chunk = chunk(seed, stride, slot, u64::from(seed));
        let token = self.submit_write(slot, &chunk);
        self.written(token).expect("a good device");
        slot
    }

    /// True when the slot holds the chunk that `put` wrote there.
    pub fn holds(&mut self, slot: u64, seed: u8, stride: u64) -> bool {
        let mut buffer = PageBuffer::new(stride as usize / PAGE);
        let token = self.submit_read(slot, &mut buffer);
        self.arrived(token).expect("a good device");
        same(&buffer, &chunk(seed, stride, slot, u64::from(seed)))
    }

    pub fn quarantine(&mut self, slot: u64, stride: u64) {
        let wanted = self.next_token();
        self.store.submit_quarantine(wanted, slot, stride);
        self.wait("a quarantine", |completion| match completion {
            Completion::Quarantined { token, result } if *token == wanted => Some(result.is_ok()),
            _ => None,
        });
    }

    /// Scan to its end: (slots with a sound header, slots with damage).
    pub fn scan(&mut self) -> (Vec<u64>, Vec<(u64, String)>) {
        self.store.start_scan();
        self.wait("the end of the scan", |completion| matches!(completion, Completion::ScanDone).then_some(()));
        let (mut sound, mut faults) = (Vec::new(), Vec::new());
        for completion in self.seen.drain(..) {
            match completion {
                Completion::Scanned { slot, .. } => sound.push(slot),
                Completion::ScanFault { slot, reason } => faults.push((slot, reason)),
                _ => {}
            }
        }
        sound.sort_unstable();
        (sound, faults)
    }

    pub fn sync(&mut self) {
        self.store.sync(PATIENCE);
    }
}
