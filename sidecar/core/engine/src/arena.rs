//! The DRAM tier: one file in memory, cut into slots by class, states kept in the index file's slot table.
//!
//! An extent (64 MiB) belongs to one class or to none; a class draws extents when it needs slots, and gives an empty one up when another class finds
//! none. A background thread allocates the file extent by extent, which is the pre-fault: only slots below `faulted_bytes` are handed out.
//! What this module knows in memory is a copy of the slot table, rebuilt from it at open.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::thread::JoinHandle;

use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use crate::error::{CoreError, Result};
use crate::index::Index;
use crate::layout::*;
use crate::map::SharedMap;

/// What a slot is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum SlotState {
    /// Free for a lease or a read.
    Free = 0,
    /// An engine may write it.
    Leased = 1,
    /// Holds the chunk of the entry that names it.
    Valid = 2,
    /// A read from NVMe may land in it.
    Reading = 3,
    /// Unlinked; readers may still hold it.
    Recycling = 4,
    /// A dead daemon's read may still land in it.
    Quarantined = 5,
    /// On its way into a grant ring.
    Granting = 6,
}

/// A slot's record as a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// What it is doing.
    pub state: SlotState,
    /// Whose lease it is.
    pub tag: u8,
    /// Its class.
    pub class: u8,
    /// When it got this state, seconds of CLOCK_MONOTONIC.
    pub since: u32,
    /// READING: which daemon submitted the read.
    pub incarnation: u64,
}

impl Slot {
    /// Copy out of the slot table.
    pub fn load(record: &SlotRecord) -> Self {
        let word = record.word.load(Ordering::Relaxed);
        let state = match word as u8 {
            1 => SlotState::Leased,
            2 => SlotState::Valid,
            3 => SlotState::Reading,
            4 => SlotState::Recycling,
            5 => SlotState::Quarantined,
            6 => SlotState::Granting,
            _ => SlotState::Free,
        };
        let incarnation = record.incarnation.load(Ordering::Relaxed);
        Self { state, tag: (word >> 8) as u8, class: (word >> 16) as u8, since: (word >> 32) as u32, incarnation }
    }

    /// Store into the slot table; the state word last and with Release, as it is what a successor goes by.
    pub fn store(&self, record: &SlotRecord) {
        record.incarnation.store(self.incarnation, Ordering::Relaxed);
        let word = u64::from(self.state as u8) | u64::from(self.tag) << 8 | u64::from(self.class) << 16 | u64::from(self.since) << 32;
        record.word.store(word, Ordering::Release);
    }
}

#[derive(Debug, Default)]
struct Extent {
    class: Option<u8>,
    free: Vec<u32>,
    slots: u32,
}

#[derive(Debug)]
struct Prefault {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// The arena file in this process.
#[derive(Debug)]
pub struct Arena {
    map: SharedMap,
    extents: Vec<Extent>,
    with_free: Vec<BTreeSet<usize>>,
    unassigned: BTreeSet<usize>,
    faulted: Arc<AtomicU64>,
    fault_errno: Arc<AtomicI32>,
    prefault: Prefault,
}

/// R/arena/arena.
pub fn path_of(root: &Path) -> PathBuf {
    root.join("arena/arena")
}

/// Whole extents in `bytes`, at least one.
pub fn usable_bytes(bytes: u64) -> u64 {
    (bytes / EXTENT_BYTES).max(1) * EXTENT_BYTES
}

/// Open the arena file, made at its full (sparse) size if it is missing.
pub fn open_file(path: &Path, bytes: u64) -> Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .custom_flags(libc::O_NOFOLLOW)
        .mode(0o666)
        .open(path)
        .map_err(|e| CoreError::io("open", path, e))?;
    rustix::fs::fchmod(&file, 0o666.into()).map_err(|e| CoreError::io("fchmod", path, e))?;
    let len = file.metadata().map_err(|e| CoreError::io("stat", path, e))?.len();
    if len != bytes {
        rustix::fs::ftruncate(&file, bytes).map_err(|e| CoreError::io("ftruncate", path, e))?;
    }
    Ok(file)
}

fn allocate(file: &File, extent: u64) -> std::result::Result<(), Errno> {
    loop {
        match rustix::fs::fallocate(file, FallocateFlags::KEEP_SIZE, extent * EXTENT_BYTES, EXTENT_BYTES) {
            Err(Errno::INTR) => {}
            other => return other,
        }
    }
}

impl Arena {
    /// Map the file; `faulted` bytes of it are known to be backed. The first extent is backed before this returns, so that a volume without room is an
    /// error here and not an arena of no slots.
    pub fn map(file: File, path: &Path, bytes: u64, faulted: u64) -> Result<Self> {
        let map = SharedMap::new(file.as_fd(), bytes as usize, true).map_err(|e| CoreError::io("mmap", path, e))?;
        let backed = (faulted / EXTENT_BYTES).min(bytes / EXTENT_BYTES).max(1);
        allocate(&file, 0).map_err(|e| CoreError::io("fallocate of the first 64 MiB", path, e))?;
        let faulted = Arc::new(AtomicU64::new(backed * EXTENT_BYTES));
        let fault_errno = Arc::new(AtomicI32::new(0));
        let prefault = start_prefault(file, path, backed, bytes / EXTENT_BYTES, &faulted, &fault_errno)?;
        let count = (bytes / EXTENT_BYTES) as usize;
        Ok(Self {
            map,
            extents: (0..count).map(|_| Extent::default()).collect(),
            with_free: vec![BTreeSet::new(); MAX_CLASSES],
            unassigned: (0..count).collect(),
            faulted,
            fault_errno,
            prefault,
        })
    }

    /// The bytes.
    pub fn bytes(&self) -> &SharedMap {
        &self.map
    }

    /// Bytes that are backed by memory by now.
    pub fn faulted_bytes(&self) -> u64 {
        self.faulted.load(Ordering::Acquire)
    }

    /// Why the pre-fault ended early.
    pub fn fault_error(&self) -> Option<std::io::Error> {
        match self.fault_errno.load(Ordering::Acquire) {
            0 => None,
            errno => Some(std::io::Error::from_raw_os_error(errno)),
        }
    }

    /// Where a slot starts.
    pub fn offset(slot: u32) -> usize {
        slot as usize * PAGE_BYTES as usize
    }

    fn extent_of(slot: u32) -> usize {
        (u64::from(slot) * PAGE_BYTES / EXTENT_BYTES) as usize
    }

    /// True when `slot` is the start of a slot of this class. Judges numbers that an engine wrote.
    pub fn is_slot(&self, slot: u32, class: u8, stride: u64) -> bool {
        let within = u64::from(slot) * PAGE_BYTES % EXTENT_BYTES;
        let owner = self.extents.get(Self::extent_of(slot)).and_then(|extent| extent.class);
        owner == Some(class) && within.is_multiple_of(stride) && within + stride <= EXTENT_BYTES
    }

    /// Rebuild from the tables: every slot of every assigned extent is shown to `visit` with its class. None is free until put back.
    pub fn rebuild(&mut self, index: &Index, mut visit: impl FnMut(u32, u8, Slot)) {
        for at in 0..self.extents.len() {
            let class = match index.extents()[at].load(Ordering::Relaxed) {
                0 => continue,
                tagged => (tagged - 1) as u8,
            };
            let stride = index.classes().get(class as usize).map_or(0, |record| record.stride_bytes.load(Ordering::Relaxed));
            if !stride_is_valid(stride) {
                index.extents()[at].store(0, Ordering::Relaxed);
                continue;
            }
            self.adopt_extent(at, class, stride);
            for slot in slots_of(at, stride) {
                visit(slot, class, Slot::load(index.slot(slot)));
            }
        }
    }

    fn adopt_extent(&mut self, at: usize, class: u8, stride: u64) {
        self.unassigned.remove(&at);
        self.extents[at] = Extent { class: Some(class), free: Vec::new(), slots: (EXTENT_BYTES / stride) as u32 };
    }

    /// A free slot of the class, out of the free ones; its record is still FREE.
    pub fn take(&mut self, index: &Index, class: u8, stride: u64) -> Option<u32> {
        let at = match self.with_free[class as usize].first() {
            Some(at) => *at,
            None => self.draw_extent(index, class, stride)?,
        };
        let slot = self.extents[at].free.pop()?;
        if self.extents[at].free.is_empty() {
            self.with_free[class as usize].remove(&at);
        }
        Some(slot)
    }

    /// Slots below the pre-fault mark only: a leased page must be charged to the sidecar, not to the engine that touches it first.
    fn draw_extent(&mut self, index: &Index, class: u8, stride: u64) -> Option<usize> {
        let backed = (self.faulted_bytes() / EXTENT_BYTES) as usize;
        let fresh = self.unassigned.first().copied().filter(|at| *at < backed);
        let at = fresh.or_else(|| self.empty_extent_of_others(class))?;
        if let Some(old) = self.extents[at].class {
            self.with_free[old as usize].remove(&at);
        }
        self.adopt_extent(at, class, stride);
        index.extents()[at].store(u32::from(class) + 1, Ordering::Release);
        self.extents[at].free = slots_of(at, stride).rev().collect();
        self.with_free[class as usize].insert(at);
        Some(at)
    }

    fn empty_extent_of_others(&self, class: u8) -> Option<usize> {
        let others = self.with_free.iter().enumerate().filter(|(other, _)| *other != class as usize);
        others.flat_map(|(_, extents)| extents).copied().find(|at| self.is_empty(*at))
    }

    fn is_empty(&self, at: usize) -> bool {
        self.extents[at].free.len() == self.extents[at].slots as usize
    }

    /// A slot whose record is FREE again can be handed out.
    pub fn put_back(&mut self, slot: u32) {
        let at = Self::extent_of(slot);
        if let Some(class) = self.extents[at].class {
            self.extents[at].free.push(slot);
            self.with_free[class as usize].insert(at);
        }
    }

    /// (free, total) slots of a class, those of extents it could still draw included.
    pub fn slots(&self, class: u8, stride: u64) -> (u64, u64) {
        let backed = (self.faulted_bytes() / EXTENT_BYTES) as usize;
        let per_extent = EXTENT_BYTES / stride;
        let mut sum = (0, 0);
        for (at, extent) in self.extents.iter().enumerate() {
            match extent.class {
                Some(owner) if owner == class => sum = (sum.0 + extent.free.len() as u64, sum.1 + u64::from(extent.slots)),
                Some(_) if self.is_empty(at) => sum = (sum.0 + per_extent, sum.1 + per_extent),
                None if at < backed => sum = (sum.0 + per_extent, sum.1 + per_extent),
                _ => {}
            }
        }
        sum
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        self.prefault.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.prefault.thread.take() {
            // A panicked pre-fault has only left memory unbacked, which `faulted` already says.
            let _ = thread.join();
        }
    }
}

fn slots_of(extent: usize, stride: u64) -> impl DoubleEndedIterator<Item = u32> {
    let first = extent as u64 * EXTENT_BYTES / PAGE_BYTES;
    (0..EXTENT_BYTES / stride).map(move |at| (first + at * (stride / PAGE_BYTES)) as u32)
}

fn start_prefault(file: File, path: &Path, from: u64, to: u64, faulted: &Arc<AtomicU64>, fault_errno: &Arc<AtomicI32>) -> Result<Prefault> {
    let stop = Arc::new(AtomicBool::new(false));
    let (seen_stop, faulted, fault_errno) = (stop.clone(), faulted.clone(), fault_errno.clone());
    let run = move || {
        for extent in from..to {
            if seen_stop.load(Ordering::Relaxed) {
                return;
            }
            if let Err(errno) = allocate(&file, extent) {
                fault_errno.store(errno.raw_os_error(), Ordering::Release);
                return;
            }
            faulted.store((extent + 1) * EXTENT_BYTES, Ordering::Release);
        }
    };
    let thread = std::thread::Builder::new().name("spillway-fault".into()).spawn(run).map_err(|e| CoreError::io("spawn", path, e))?;
    Ok(Prefault { stop, thread: Some(thread) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::IndexShape;

    const STRIDE: u64 = 8 << 20;

    fn arena(extents: u64) -> (tempfile::TempDir, Index, Arena) {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let bytes = extents * EXTENT_BYTES;
        let index = Index::create(&dir.path().join("index"), IndexShape::within(bytes, 1 << 20).expect("room")).expect("index");
        let path = dir.path().join("arena");
        let arena = Arena::map(open_file(&path, bytes).expect("file"), &path, bytes, bytes).expect("map");
        (dir, index, arena)
    }

    #[test]
    fn a_class_draws_extents_and_an_empty_one_goes_to_another_class() {
        let (_dir, index, mut arena) = arena(2);
        let small: Vec<u32> = (0..16).map(|_| arena.take(&index, 0, STRIDE).expect("16 slots of 8 MiB in 128 MiB")).collect();
        assert_eq!(small.iter().collect::<BTreeSet<_>>().len(), 16);
        assert_eq!(arena.take(&index, 0, STRIDE), None);
        assert_eq!(arena.take(&index, 1, EXTENT_BYTES), None);
        for slot in &small[8..] {
            arena.put_back(*slot);
        }
        assert_eq!(arena.slots(1, EXTENT_BYTES), (1, 1));
        let large = arena.take(&index, 1, EXTENT_BYTES).expect("the empty extent");
        assert!(arena.is_slot(large, 1, EXTENT_BYTES));
        assert!(!arena.is_slot(large, 0, STRIDE));
        assert_eq!(arena.slots(0, STRIDE), (0, 8));
    }

    #[test]
    fn foreign_numbers_are_no_slots() {
        let (_dir, index, mut arena) = arena(1);
        let slot = arena.take(&index, 0, STRIDE).expect("a slot");
        assert!(arena.is_slot(slot, 0, STRIDE));
        for wrong in [slot + 1, u32::MAX, 1 << 20] {
            assert!(!arena.is_slot(wrong, 0, STRIDE), "{wrong}");
        }
    }

    #[test]
    fn a_slot_record_round_trips() {
        let record = SlotRecord { word: 0.into(), incarnation: 0.into() };
        let slot = Slot { state: SlotState::Reading, tag: 3, class: 4, since: 5, incarnation: 6 };
        slot.store(&record);
        assert_eq!(Slot::load(&record), slot);
    }
}
