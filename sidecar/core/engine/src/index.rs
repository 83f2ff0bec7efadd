//! The lookup table: open addressing in a window of 32 entries, one writer, readers in other processes without a system call.
//!
//! A probe starts at the key's home and ends at the first never-used entry or after 32. Removal leaves a tombstone unless the next entry was never
//! used, in which case the tombstones before it vanish too: no reader walks past them to something that is there. Nothing is ever moved.

use std::fs::{File, OpenOptions};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::abi::{self, Stated};
use crate::error::{CoreError, Result};
use crate::key::Key16;
use crate::layout::*;
use crate::map::SharedMap;
use crate::seqlock::{DELETED, EMPTY, Entry, EntryValue, LIVE};

/// Where the sections of an index file lie; a function of two sizes, so that a reader need not trust offsets it reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexShape {
    /// Size of the arena.
    pub arena_bytes: u64,
    /// Entries, a multiple of [`Self::ENTRIES_PER_PAGE`].
    pub entry_count: u64,
}

impl IndexShape {
    const CLASSES: u64 = 4096;
    const INCARNATIONS: u64 = 8192;
    const EXTENTS: u64 = Self::INCARNATIONS + 4096;
    /// Fewer entries than this are no cache.
    pub const MIN_ENTRIES: u64 = 1024;
    /// The file ends with a whole page.
    pub const ENTRIES_PER_PAGE: u64 = PAGE_BYTES / size_of::<Entry>() as u64;

    /// The largest table that fits in `index_bytes`, to the page: rounded down to a power of two it would lose up to half of them, and with it the
    /// two entries per chunk that keep windows from filling up.
    pub fn within(arena_bytes: u64, index_bytes: u64) -> Result<Self> {
        let fixed = Self { arena_bytes, entry_count: 0 }.entries();
        let room = index_bytes.saturating_sub(fixed) / size_of::<Entry>() as u64;
        if room < Self::MIN_ENTRIES {
            let least = fixed + Self::MIN_ENTRIES * size_of::<Entry>() as u64;
            return Err(CoreError::invalid(format!(
                "index_bytes is {index_bytes}, an arena of {arena_bytes} bytes needs at least {least}"
            )));
        }
        Ok(Self { arena_bytes, entry_count: room - room % Self::ENTRIES_PER_PAGE })
    }

    /// 64 MiB extents of the arena, the last one perhaps less.
    pub fn extents(&self) -> u64 {
        self.arena_bytes.div_ceil(EXTENT_BYTES)
    }

    fn slots(&self) -> u64 {
        align_page(Self::EXTENTS + self.extents() * 4)
    }

    fn slot_records(&self) -> u64 {
        self.arena_bytes / MIN_STRIDE_BYTES
    }

    fn entries(&self) -> u64 {
        align_page(self.slots() + self.slot_records() * size_of::<SlotRecord>() as u64)
    }

    /// Size of the file.
    pub fn file_bytes(&self) -> u64 {
        self.entries() + self.entry_count * size_of::<Entry>() as u64
    }

    fn is_valid(&self) -> bool {
        self.entry_count.is_multiple_of(Self::ENTRIES_PER_PAGE)
            && self.entry_count >= Self::MIN_ENTRIES
            && self.entry_count < 1 << 40
            && self.arena_bytes.is_multiple_of(MIN_STRIDE_BYTES)
            && (EXTENT_BYTES..1 << 44).contains(&self.arena_bytes)
    }
}

/// An index file in this process; read-only in an engine.
#[derive(Debug)]
pub struct Index {
    map: SharedMap,
    shape: IndexShape,
    entries_at: usize,
}

/// Why an entry was not inserted.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub struct WindowFull;

impl Index {
    /// Make a new file and put it in place of any old one; the caller retired that one before.
    pub fn create(path: &Path, shape: IndexShape) -> Result<Self> {
        let fresh = path.with_extension("new");
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o644)
            .open(&fresh)
            .map_err(|e| CoreError::io("create", &fresh, e))?;
        rustix::fs::fchmod(&file, 0o644.into()).map_err(|e| CoreError::io("fchmod", &fresh, e))?;
        // Allocated now: a page that cannot be had later would be a SIGBUS in the middle of an entry.
        rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, shape.file_bytes())
            .map_err(|e| CoreError::io("fallocate", &fresh, e))?;
        let map = SharedMap::new(file.as_fd(), shape.file_bytes() as usize, true).map_err(|e| CoreError::io("mmap", &fresh, e))?;
        let index = Self::over(map, shape);
        index.format();
        std::fs::rename(&fresh, path).map_err(|e| CoreError::io("rename", path, e))?;
        Ok(index)
    }

    /// Map a file that exists and check that it is one of ours.
    pub fn open(path: &Path, writable: bool) -> Result<Self> {
        let file: File =
            OpenOptions::new().read(true).write(writable).open(path).map_err(|e| CoreError::Absent { path: path.to_owned(), source: e })?;
        let len = file.metadata().map_err(|e| CoreError::io("stat", path, e))?.len();
        if len < PAGE_BYTES {
            return Err(CoreError::invalid(format!("{}: {len} bytes are no index", path.display())));
        }
        let map = SharedMap::new(file.as_fd(), len as usize, writable).map_err(|e| CoreError::io("mmap", path, e))?;
        let (magic, stated, shape, file_bytes) = {
            let header: &IndexHeader = map.cell(0);
            let shape = IndexShape {
                arena_bytes: header.arena_bytes.load(Ordering::Relaxed),
                entry_count: header.entry_count.load(Ordering::Relaxed),
            };
            (header.magic.load(Ordering::Acquire), Stated::by_sidecar(header), shape, header.file_bytes.load(Ordering::Relaxed))
        };
        if magic != INDEX_MAGIC {
            return Err(CoreError::invalid(format!(
                "{}: no index or a retired one; the sidecar makes a new one at its start",
                path.display()
            )));
        }
        stated.check(path)?;
        if !shape.is_valid() || shape.file_bytes() != len || file_bytes != len {
            return Err(CoreError::invalid(format!("{}: header and size ({len} bytes) disagree", path.display())));
        }
        let index = Self::over(map, shape);
        if writable {
            // A predecessor may have been of another version.
            abi::state(&index.header().abi, &index.header().sidecar_abi);
        }
        Ok(index)
    }

    fn over(map: SharedMap, shape: IndexShape) -> Self {
        Self { map, shape, entries_at: shape.entries() as usize }
    }

    fn format(&self) {
        let header = self.header();
        abi::state(&header.abi, &header.sidecar_abi);
        header.global_epoch.store(1, Ordering::Relaxed);
        header.progress.store(1, Ordering::Relaxed);
        header.arena_bytes.store(self.shape.arena_bytes, Ordering::Relaxed);
        header.entry_count.store(self.shape.entry_count, Ordering::Relaxed);
        header.entries_offset.store(self.shape.entries(), Ordering::Relaxed);
        header.classes_offset.store(IndexShape::CLASSES, Ordering::Relaxed);
        header.incarnations_offset.store(IndexShape::INCARNATIONS, Ordering::Relaxed);
        header.extents_offset.store(IndexShape::EXTENTS, Ordering::Relaxed);
        header.slots_offset.store(self.shape.slots(), Ordering::Relaxed);
        header.file_bytes.store(self.shape.file_bytes(), Ordering::Relaxed);
        header.use_clock.store(1, Ordering::Relaxed);
        header.magic.store(INDEX_MAGIC, Ordering::Release);
    }

    /// Make every lookup in this file MISS from now on, for engines that still map it.
    pub fn retire(&self) {
        self.header().magic.store(0, Ordering::SeqCst);
    }

    /// False once the file was retired.
    #[inline]
    pub fn is_current(&self) -> bool {
        self.header().magic.load(Ordering::Acquire) == INDEX_MAGIC
    }

    /// Page 0.
    #[inline]
    pub fn header(&self) -> &IndexHeader {
        self.map.cell(0)
    }

    /// The sizes it was made for.
    pub fn shape(&self) -> IndexShape {
        self.shape
    }

    /// The class table.
    pub fn classes(&self) -> &[ClassRecord] {
        self.map.cells(IndexShape::CLASSES as usize, MAX_CLASSES)
    }

    /// The incarnation table.
    pub fn incarnations(&self) -> &[IncarnationRecord] {
        self.map.cells(IndexShape::INCARNATIONS as usize, MAX_INCARNATIONS)
    }

    /// The extent table: 0 unassigned, else class + 1.
    pub fn extents(&self) -> &[AtomicU32] {
        self.map.cells(IndexShape::EXTENTS as usize, self.shape.extents() as usize)
    }

    /// The record of a slot; panics for a slot outside the arena.
    pub fn slot(&self, slot: u32) -> &SlotRecord {
        let place = u64::from(slot) * PAGE_BYTES / MIN_STRIDE_BYTES;
        assert!(place < self.shape.slot_records(), "slot {slot} is outside the arena");
        self.map.cell(self.shape.slots() as usize + place as usize * size_of::<SlotRecord>())
    }

    /// One entry; a place behind the last one is as far behind the first.
    #[inline]
    pub fn entry(&self, place: u64) -> &Entry {
        self.map.cell(self.entries_at + self.wrapped(place) as usize * size_of::<Entry>())
    }

    /// A window runs on at the table's start. Places are below twice the table's size.
    #[inline]
    fn wrapped(&self, place: u64) -> u64 {
        if place >= self.shape.entry_count { place - self.shape.entry_count } else { place }
    }

    fn before(&self, place: u64) -> u64 {
        place.checked_sub(1).unwrap_or(self.shape.entry_count - 1)
    }

    /// The live entries of a key's window with their last_use: what an insert that finds it full can choose from.
    pub fn window(&self, key: Key16) -> impl Iterator<Item = (u64, EntryValue, u32)> {
        let home = key.home(self.shape.entry_count);
        (0..PROBE_WINDOW).map(move |step| self.wrapped(home + step)).filter_map(|place| {
            let entry = self.entry(place);
            let value = entry.copy();
            (value.state == LIVE).then(|| (place, value, entry.last_use.load(Ordering::Relaxed)))
        })
    }

    /// Entries in the table.
    pub fn entry_count(&self) -> u64 {
        self.shape.entry_count
    }

    /// Start fetching a key's first line.
    #[inline]
    pub fn prefetch(&self, key: Key16) {
        self.map.prefetch(self.entries_at + key.home(self.shape.entry_count) as usize * size_of::<Entry>());
    }

    /// A reader's probe: a consistent copy of the key's entry, if it is live.
    #[inline]
    pub fn lookup(&self, key: Key16) -> Option<EntryValue> {
        let home = key.home(self.shape.entry_count);
        for step in 0..PROBE_WINDOW {
            let entry = self.entry(home + step);
            if entry.meta.load(Ordering::Relaxed) as u8 == EMPTY {
                return None;
            }
            // Only a line that looks right is worth the sequence; the copy under it decides.
            if entry.key[0].load(Ordering::Relaxed) == key.0 && entry.key[1].load(Ordering::Relaxed) == key.1 {
                match entry.read() {
                    Some(value) if value.state == LIVE && value.key == [key.0, key.1] => return Some(value),
                    Some(_) => {}
                    None => return None,
                }
            }
        }
        None
    }

    /// The writer's probe: place and value of the key's live entry.
    pub fn find(&self, key: Key16) -> Option<(u64, EntryValue)> {
        let home = key.home(self.shape.entry_count);
        for step in 0..PROBE_WINDOW {
            let place = self.wrapped(home + step);
            let value = self.entry(place).copy();
            if value.state == EMPTY {
                return None;
            }
            if value.state == LIVE && value.key == [key.0, key.1] {
                return Some((place, value));
            }
        }
        None
    }

    /// True when an insert of the key finds room.
    pub fn has_place(&self, key: Key16) -> bool {
        let home = key.home(self.shape.entry_count);
        (0..PROBE_WINDOW).any(|step| self.entry(home + step).copy().state != LIVE)
    }

    /// Insert a key that [`Self::find`] did not find; the place it got.
    pub fn insert(&self, value: &EntryValue) -> std::result::Result<u64, WindowFull> {
        let home = Key16(value.key[0], value.key[1]).home(self.shape.entry_count);
        for step in 0..PROBE_WINDOW {
            let place = self.wrapped(home + step);
            if self.entry(place).copy().state != LIVE {
                self.entry(place).write(value);
                return Ok(place);
            }
        }
        Err(WindowFull)
    }

    /// Replace the value of a live entry.
    pub fn update(&self, place: u64, value: &EntryValue) {
        self.entry(place).write(value);
    }

    /// Remove a live entry.
    pub fn remove(&self, place: u64) {
        let next_is_empty = self.entry(place + 1).copy().state == EMPTY;
        let gone = |state| EntryValue { state, dram_slot: NO_DRAM, nvme_slot: NO_NVME, ..EntryValue::default() };
        self.entry(place).write(&gone(if next_is_empty { EMPTY } else { DELETED }));
        if next_is_empty {
            let mut before = self.before(place);
            while self.entry(before).copy().state == DELETED {
                self.entry(before).write(&gone(EMPTY));
                before = self.before(before);
            }
        }
    }

    /// Note a use of a live entry.
    pub fn touch(&self, place: u64) -> u32 {
        let clock = self.header().use_clock.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        self.entry(place).last_use.store(clock, Ordering::Relaxed);
        clock
    }

    /// What the next use is later than.
    pub fn use_clock(&self) -> u32 {
        self.header().use_clock.load(Ordering::Relaxed)
    }

    /// Tell engines that a key became hit or miss.
    pub fn bump_progress(&self) {
        self.header().progress.fetch_add(1, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    fn small() -> (tempfile::TempDir, Index) {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let shape = IndexShape::within(EXTENT_BYTES, 1 << 20).expect("1 MiB is enough");
        let index = Index::create(&dir.path().join("index"), shape).expect("create");
        (dir, index)
    }

    fn value(key: Key16, dram_slot: u32) -> EntryValue {
        EntryValue { state: LIVE, key: [key.0, key.1], dram_slot, nvme_slot: NO_NVME, ..EntryValue::default() }
    }

    #[test]
    fn the_second_opener_sees_what_was_inserted() {
        let (dir, index) = small();
        let key = Key16(3, 4);
        index.insert(&value(key, 16)).expect("room");
        let reader = Index::open(&dir.path().join("index"), false).expect("open");
        assert_eq!(reader.lookup(key).map(|v| v.dram_slot), Some(16));
        assert_eq!(reader.lookup(Key16(4, 3)), None);
        index.retire();
        assert!(!reader.is_current());
        assert!(Index::open(&dir.path().join("index"), false).is_err());
    }

    #[test]
    fn an_odd_entry_is_a_miss_and_is_repaired_to_a_tombstone() {
        let (_dir, index) = small();
        let key = Key16(8, 9);
        let place = index.insert(&value(key, 1)).expect("room");
        index.entry(place).seq.fetch_add(1, Ordering::Relaxed);
        assert_eq!(index.lookup(key), None);
        assert!(index.entry(place).repair());
        assert!(!index.entry(place).repair());
        assert_eq!(index.entry(place).copy().state, DELETED);
        index.insert(&value(key, 2)).expect("room");
        assert_eq!(index.lookup(key).map(|v| v.dram_slot), Some(2));
    }

    #[test]
    fn a_full_window_refuses() {
        let (_dir, index) = small();
        let home = Key16(0, 0).home(index.entry_count());
        let same_home = (0..u64::MAX).map(|i| Key16(i, 0)).filter(|k| k.home(index.entry_count()) == home);
        let keys: Vec<_> = same_home.take(33).collect();
        for key in &keys[..32] {
            index.insert(&value(*key, 1)).expect("32 fit");
        }
        assert_eq!(index.insert(&value(keys[32], 1)), Err(WindowFull));
        assert_eq!(index.lookup(keys[31]).map(|v| v.dram_slot), Some(1));
    }

    #[test]
    fn the_table_takes_all_the_room_it_is_given() {
        for (arena, bytes) in [
            (EXTENT_BYTES, 1 << 20),
            (EXTENT_BYTES, (1 << 20) - 1),
            (1 << 40, 1 << 30),
            (3 * EXTENT_BYTES, 12_345_678),
            (82 << 20, 1 << 20),
        ] {
            let shape = IndexShape::within(arena, bytes).expect("room");
            assert!(shape.is_valid());
            assert!((bytes - PAGE_BYTES..=bytes).contains(&shape.file_bytes()), "{bytes}: {shape:?}");
        }
    }

    #[test]
    fn a_window_runs_on_at_the_start_of_the_table() {
        let (_dir, index) = small();
        let last = index.entry_count() - 1;
        let at_the_end = (0..u64::MAX).map(|i| Key16(i, 0)).filter(|key| key.home(index.entry_count()) == last);
        let keys: Vec<_> = at_the_end.take(4).collect();
        for (slot, key) in keys.iter().enumerate() {
            index.insert(&value(*key, slot as u32)).expect("room");
        }
        assert_eq!(index.find(keys[3]).map(|(place, _)| place), Some(2));
        assert_eq!(index.lookup(keys[3]).map(|found| found.dram_slot), Some(3));
        assert_eq!(index.window(keys[0]).count(), 4);
        for key in keys.iter().rev() {
            let (place, _) = index.find(*key).expect("it is there");
            index.remove(place);
        }
        assert_eq!(index.entry(last).copy().state, EMPTY);
    }

    #[test]
    fn too_small_an_index_is_refused_with_the_size_it_needs() {
        let error = IndexShape::within(EXTENT_BYTES, 4096).expect_err("one page is no index");
        assert!(error.to_string().contains("needs at least"), "{error}");
    }

    proptest! {
        #[test]
        fn behaves_like_a_map(ops in prop::collection::vec((0u64..64, any::<bool>(), 0u32..1000), 1..400)) {
            let (_dir, index) = small();
            let mut model = HashMap::new();
            for (number, insert, slot) in ops {
                let key = Key16(number.wrapping_mul(0x1_0000_0001), number);
                match index.find(key) {
                    Some((place, _)) if !insert => { index.remove(place); model.remove(&key); }
                    Some((place, old)) => { index.update(place, &EntryValue { dram_slot: slot, ..old }); model.insert(key, slot); }
                    None if insert => { prop_assert!(index.insert(&value(key, slot)).is_ok()); model.insert(key, slot); }
                    None => {}
                }
            }
            for number in 0..64u64 {
                let key = Key16(number.wrapping_mul(0x1_0000_0001), number);
                prop_assert_eq!(index.lookup(key).map(|v| v.dram_slot), model.get(&key).copied());
            }
        }
    }
}
