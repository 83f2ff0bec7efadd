//! The DRAM tier: one file in memory, cut into slots by class, states kept in the index file's slot table.
//!
//! An extent (64 MiB, the last one perhaps less) belongs to one class or to none; a class draws extents when it needs slots, and gives an empty one up
//! when another class finds none. One that is not empty changes hands by being vacated: none of its slots is handed out any more, and with the last
//! one that comes back it is the other class's. A background thread allocates the file extent by extent, which is the pre-fault: only slots below
//! `faulted_bytes` are handed out. What this module knows in memory is a copy of the slot table, rebuilt from it at open.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::ops::Range;
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
    /// On its way out of a grant ring, unless its engine takes it first.
    Recalling = 7,
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
    /// READING: which daemon submitted the read. RECALLING: [`recall_word`].
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
            7 => SlotState::Recalling,
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
    /// Extents that are being vacated: for which class and since when, in nanoseconds.
    vacated: BTreeMap<usize, (u8, u64)>,
    faulted: Arc<AtomicU64>,
    fault_errno: Arc<AtomicI32>,
    prefault: Prefault,
}

/// R/arena/arena.
pub fn path_of(root: &Path) -> PathBuf {
    root.join("arena/arena")
}

/// As much of `bytes` as records of the slot table stand for, at least an extent.
pub fn usable_bytes(bytes: u64) -> u64 {
    (bytes - bytes % MIN_STRIDE_BYTES).max(EXTENT_BYTES)
}

/// What [`Slot::incarnation`] is for a slot on its way out of a group's grant ring that shows so many recalls.
pub fn recall_word(group: usize, recalls: u16) -> u64 {
    (group as u64) << 32 | u64::from(recalls)
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

/// Where an extent of an arena of so many bytes starts and ends.
fn range_of(extent: u64, arena_bytes: u64) -> (u64, u64) {
    (extent * EXTENT_BYTES, ((extent + 1) * EXTENT_BYTES).min(arena_bytes))
}

fn allocate(file: &File, (start, end): (u64, u64)) -> std::result::Result<(), Errno> {
    loop {
        match rustix::fs::fallocate(file, FallocateFlags::KEEP_SIZE, start, end - start) {
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
        let count = bytes.div_ceil(EXTENT_BYTES);
        let backed = if faulted >= bytes { count } else { (faulted / EXTENT_BYTES).max(1) };
        allocate(&file, range_of(0, bytes)).map_err(|e| CoreError::io("fallocate of the first 64 MiB", path, e))?;
        let faulted = Arc::new(AtomicU64::new(range_of(backed - 1, bytes).1));
        let fault_errno = Arc::new(AtomicI32::new(0));
        let prefault = start_prefault(file, path, backed..count, bytes, &faulted, &fault_errno)?;
        let count = count as usize;
        Ok(Self {
            map,
            extents: (0..count).map(|_| Extent::default()).collect(),
            with_free: vec![BTreeSet::new(); MAX_CLASSES],
            unassigned: (0..count).collect(),
            vacated: BTreeMap::new(),
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

    fn extent_bytes(&self, at: usize) -> u64 {
        let (start, end) = range_of(at as u64, self.map.len() as u64);
        end - start
    }

    /// Slots of a stride in an extent; the last one may have none.
    fn capacity(&self, at: usize, stride: u64) -> u64 {
        self.extent_bytes(at) / stride
    }

    fn is_backed(&self, at: usize) -> bool {
        range_of(at as u64, self.map.len() as u64).1 <= self.faulted_bytes()
    }

    /// True when `slot` is the start of a slot of this class. Judges numbers that an engine wrote.
    pub fn is_slot(&self, slot: u32, class: u8, stride: u64) -> bool {
        let within = u64::from(slot) * PAGE_BYTES % EXTENT_BYTES;
        let owner = self.extents.get(Self::extent_of(slot)).and_then(|extent| extent.class);
        owner == Some(class) && within.is_multiple_of(stride) && within + stride <= self.extent_bytes(Self::extent_of(slot))
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
            for slot in self.slots_of(at, stride) {
                visit(slot, class, Slot::load(index.slot(slot)));
            }
        }
    }

    fn adopt_extent(&mut self, at: usize, class: u8, stride: u64) {
        self.unassigned.remove(&at);
        self.extents[at] = Extent { class: Some(class), free: Vec::new(), slots: self.capacity(at, stride) as u32 };
    }

    fn slots_of(&self, at: usize, stride: u64) -> impl DoubleEndedIterator<Item = u32> + use<> {
        let first = at as u64 * EXTENT_BYTES / PAGE_BYTES;
        (0..self.capacity(at, stride)).map(move |place| (first + place * (stride / PAGE_BYTES)) as u32)
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
        let mut fresh = self.unassigned.iter().copied();
        let fresh = fresh.find(|at| self.is_backed(*at) && self.capacity(*at, stride) > 0);
        let at = fresh.or_else(|| self.empty_extent_of_others(class, stride))?;
        self.assign(index, at, class, stride);
        Some(at)
    }

    /// An empty extent becomes a class's, all of it free.
    fn assign(&mut self, index: &Index, at: usize, class: u8, stride: u64) {
        if let Some(old) = self.extents[at].class {
            self.with_free[old as usize].remove(&at);
        }
        self.adopt_extent(at, class, stride);
        index.extents()[at].store(u32::from(class) + 1, Ordering::Release);
        crate::crash::point("extent-assigned");
        self.extents[at].free = self.slots_of(at, stride).rev().collect();
        self.with_free[class as usize].insert(at);
    }

    /// An empty extent becomes nobody's.
    fn unassign(&mut self, index: &Index, at: usize) {
        if let Some(old) = self.extents[at].class {
            self.with_free[old as usize].remove(&at);
        }
        self.extents[at] = Extent::default();
        index.extents()[at].store(0, Ordering::Release);
        self.unassigned.insert(at);
    }

    fn empty_extent_of_others(&self, class: u8, stride: u64) -> Option<usize> {
        let others = self.with_free.iter().enumerate().filter(|(other, _)| *other != class as usize);
        others.flat_map(|(_, extents)| extents).copied().find(|at| self.is_empty(*at) && self.capacity(*at, stride) > 0)
    }

    fn is_empty(&self, at: usize) -> bool {
        self.extents[at].free.len() == self.extents[at].slots as usize
    }

    /// A slot whose record is FREE again can be handed out, or its extent to the class that it is vacated for.
    pub fn put_back(&mut self, index: &Index, slot: u32) {
        let at = Self::extent_of(slot);
        let Some(class) = self.extents[at].class else { return };
        self.extents[at].free.push(slot);
        match self.vacated.get(&at) {
            None => _ = self.with_free[class as usize].insert(at),
            Some(_) if self.is_empty(at) => self.hand_over(index, at),
            Some(_) => {}
        }
    }

    /// Vacate at most `count` of the extents that these slots lie in for another class: no slot of them is handed out any more, and each one
    /// changes its class once all of its slots are free, whose records are FREE. How many; none that could hold no slot of the class.
    pub fn vacate(&mut self, index: &Index, slots: impl Iterator<Item = u32>, count: usize, class: u8, now_ns: u64) -> usize {
        let stride = index.classes()[class as usize].stride_bytes.load(Ordering::Relaxed);
        if !stride_is_valid(stride) {
            return 0;
        }
        let mut begun = BTreeSet::new();
        for at in slots.map(Self::extent_of) {
            let Some(owner) = self.extents.get(at).and_then(|extent| extent.class) else { continue };
            let is_fit = owner != class && !self.vacated.contains_key(&at) && self.capacity(at, stride) > 0;
            if begun.len() < count && is_fit {
                self.with_free[owner as usize].remove(&at);
                self.vacated.insert(at, (class, now_ns));
                begun.insert(at);
            }
        }
        for at in &begun {
            if self.is_empty(*at) {
                self.hand_over(index, *at);
            }
        }
        begun.len()
    }

    fn hand_over(&mut self, index: &Index, at: usize) {
        let Some((class, _)) = self.vacated.remove(&at) else { return };
        let stride = index.classes()[class as usize].stride_bytes.load(Ordering::Relaxed);
        match stride_is_valid(stride) && self.capacity(at, stride) > 0 {
            true => self.assign(index, at, class, stride),
            false => self.unassign(index, at),
        }
    }

    /// What began before and is not empty yet stays with its class.
    pub fn end_vacating(&mut self, began_before_ns: u64) {
        let late: Vec<usize> = self.vacated.iter().filter(|(_, (_, since_ns))| *since_ns < began_before_ns).map(|(at, _)| *at).collect();
        for at in late {
            self.vacated.remove(&at);
            if let Some(class) = self.extents[at].class
                && !self.extents[at].free.is_empty()
            {
                self.with_free[class as usize].insert(at);
            }
        }
    }

    /// Every slot of the extents that are being vacated.
    pub fn vacated_slots(&self, index: &Index) -> Vec<u32> {
        let stride_of = |at: &usize| {
            let class = self.extents[*at].class?;
            Some(index.classes()[class as usize].stride_bytes.load(Ordering::Relaxed))
        };
        self.vacated.keys().filter_map(|at| Some((at, stride_of(at)?))).flat_map(|(at, stride)| self.slots_of(*at, stride)).collect()
    }

    /// Slots of extents that are being vacated for a class.
    pub fn slots_to_come(&self, class: u8, stride: u64) -> u64 {
        self.vacated.iter().filter(|(_, (to, _))| *to == class).map(|(at, _)| self.capacity(*at, stride)).sum()
    }

    /// Give all extents of a class back, if all are empty and none is on its way to it. False: something of the class is in use.
    pub fn dissolve(&mut self, index: &Index, class: u8) -> bool {
        let owned: Vec<usize> = (0..self.extents.len()).filter(|at| self.extents[*at].class == Some(class)).collect();
        let awaited = self.vacated.values().any(|(to, _)| *to == class);
        if awaited || owned.iter().any(|at| !self.is_empty(*at) || self.vacated.contains_key(at)) {
            return false;
        }
        for at in owned {
            self.unassign(index, at);
        }
        true
    }

    /// Slots of a class that are not free, those of extents being vacated included.
    pub fn slots_taken(&self, class: u8, stride: u64) -> u64 {
        let taken = |at: &usize| u64::from(self.extents[*at].slots) - self.extents[*at].free.len() as u64;
        let vacated: u64 = self.vacated.keys().filter(|at| self.extents[**at].class == Some(class)).map(taken).sum();
        let (free, total) = self.slots(class, stride);
        total - free + vacated
    }

    /// (free, total) slots of a class, those of extents it could still draw included and those of extents being vacated not.
    pub fn slots(&self, class: u8, stride: u64) -> (u64, u64) {
        let mut sum = (0, 0);
        for (at, extent) in self.extents.iter().enumerate().filter(|(at, _)| !self.vacated.contains_key(at)) {
            let capacity = self.capacity(at, stride);
            match extent.class {
                Some(owner) if owner == class => sum = (sum.0 + extent.free.len() as u64, sum.1 + u64::from(extent.slots)),
                Some(_) if self.is_empty(at) => sum = (sum.0 + capacity, sum.1 + capacity),
                None if self.is_backed(at) => sum = (sum.0 + capacity, sum.1 + capacity),
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

fn start_prefault(
    file: File,
    path: &Path,
    extents: Range<u64>,
    bytes: u64,
    faulted: &Arc<AtomicU64>,
    fault_errno: &Arc<AtomicI32>,
) -> Result<Prefault> {
    let stop = Arc::new(AtomicBool::new(false));
    let (seen_stop, faulted, fault_errno) = (stop.clone(), faulted.clone(), fault_errno.clone());
    let run = move || {
        for range in extents.map(|extent| range_of(extent, bytes)) {
            if seen_stop.load(Ordering::Relaxed) {
                return;
            }
            if let Err(errno) = allocate(&file, range) {
                fault_errno.store(errno.raw_os_error(), Ordering::Release);
                return;
            }
            faulted.store(range.1, Ordering::Release);
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

    fn arena_of(bytes: u64) -> (tempfile::TempDir, Index, Arena) {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let index = Index::create(&dir.path().join("index"), IndexShape::within(bytes, 1 << 20).expect("room")).expect("index");
        index.classes()[0].stride_bytes.store(STRIDE, Ordering::Relaxed);
        index.classes()[1].stride_bytes.store(EXTENT_BYTES, Ordering::Relaxed);
        let path = dir.path().join("arena");
        let arena = Arena::map(open_file(&path, bytes).expect("file"), &path, bytes, bytes).expect("map");
        (dir, index, arena)
    }

    fn arena(extents: u64) -> (tempfile::TempDir, Index, Arena) {
        arena_of(extents * EXTENT_BYTES)
    }

    fn take_all(index: &Index, arena: &mut Arena, class: u8, stride: u64) -> Vec<u32> {
        std::iter::from_fn(|| arena.take(index, class, stride)).collect()
    }

    #[test]
    fn a_class_draws_extents_and_an_empty_one_goes_to_another_class() {
        let (_dir, index, mut arena) = arena(2);
        let small = take_all(&index, &mut arena, 0, STRIDE);
        assert_eq!((small.len(), small.iter().collect::<BTreeSet<_>>().len()), (16, 16));
        assert_eq!(arena.take(&index, 1, EXTENT_BYTES), None);
        for slot in &small[8..] {
            arena.put_back(&index, *slot);
        }
        assert_eq!(arena.slots(1, EXTENT_BYTES), (1, 1));
        let large = arena.take(&index, 1, EXTENT_BYTES).expect("the empty extent");
        assert!(arena.is_slot(large, 1, EXTENT_BYTES));
        assert!(!arena.is_slot(large, 0, STRIDE));
        assert_eq!(arena.slots(0, STRIDE), (0, 8));
    }

    #[test]
    fn the_arena_is_what_was_asked_for_and_its_last_extent_short() {
        assert_eq!([1, EXTENT_BYTES, 82 << 20, (82 << 20) + 1].map(usable_bytes), [EXTENT_BYTES, EXTENT_BYTES, 82 << 20, 82 << 20]);
        let (_dir, index, mut arena) = arena_of(82 << 20);
        assert_eq!(arena.slots(0, STRIDE), (10, 10));
        assert_eq!((arena.slots(1, EXTENT_BYTES), arena.faulted_bytes()), ((1, 1), 82 << 20));
        let slots = take_all(&index, &mut arena, 0, STRIDE);
        assert_eq!(slots.len(), 10);
        assert!(slots.iter().all(|slot| arena.is_slot(*slot, 0, STRIDE) && Arena::offset(*slot) as u64 + STRIDE <= 82 << 20));
        assert!(!arena.is_slot(slots[9] + (STRIDE / PAGE_BYTES) as u32, 0, STRIDE), "it would end beyond the arena");
        // Whoever needs whole extents cannot use the short one, empty or not.
        for slot in &slots[8..] {
            arena.put_back(&index, *slot);
        }
        assert_eq!(arena.take(&index, 1, EXTENT_BYTES), None);
        assert_eq!(arena.vacate(&index, [slots[9]].into_iter(), 1, 1, 0), 0);
    }

    #[test]
    fn a_vacated_extent_hands_out_nothing_and_goes_over_with_its_last_slot() {
        let (_dir, index, mut arena) = arena(2);
        let small = take_all(&index, &mut arena, 0, STRIDE);
        assert_eq!(arena.vacate(&index, small.iter().copied(), 1, 1, 5), 1);
        assert_eq!((arena.slots(0, STRIDE), arena.slots_to_come(1, EXTENT_BYTES)), ((0, 8), 1));
        assert_eq!(arena.vacated_slots(&index), small[..8]);
        for slot in &small[..7] {
            arena.put_back(&index, *slot);
        }
        assert_eq!((arena.take(&index, 0, STRIDE), arena.take(&index, 1, EXTENT_BYTES)), (None, None));
        arena.put_back(&index, small[7]);
        assert_eq!(arena.slots(1, EXTENT_BYTES), (1, 1));
        assert_eq!(arena.take(&index, 1, EXTENT_BYTES), Some(small[0]));
        assert_eq!(index.extents()[0].load(Ordering::Relaxed), 2);
        assert_eq!(arena.vacated_slots(&index), []);
    }

    #[test]
    fn an_extent_that_does_not_get_empty_stays_with_its_class() {
        let (_dir, index, mut arena) = arena(1);
        let small = take_all(&index, &mut arena, 0, STRIDE);
        arena.put_back(&index, small[0]);
        assert_eq!(arena.vacate(&index, small.iter().copied(), 1, 1, 5), 1);
        arena.end_vacating(5);
        assert_eq!(arena.take(&index, 0, STRIDE), None);
        arena.end_vacating(6);
        assert_eq!(arena.take(&index, 0, STRIDE), Some(small[0]));
        assert_eq!(arena.slots_to_come(1, EXTENT_BYTES), 0);
    }

    #[test]
    fn a_class_is_dissolved_only_when_nothing_of_it_is_in_use() {
        let (_dir, index, mut arena) = arena(2);
        let small = take_all(&index, &mut arena, 0, STRIDE);
        for slot in &small[1..] {
            arena.put_back(&index, *slot);
        }
        assert!(!arena.dissolve(&index, 0));
        arena.put_back(&index, small[0]);
        assert!(arena.dissolve(&index, 0) && arena.dissolve(&index, 0));
        assert!(index.extents().iter().all(|extent| extent.load(Ordering::Relaxed) == 0));
        assert_eq!(arena.slots(1, EXTENT_BYTES), (2, 2));
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
