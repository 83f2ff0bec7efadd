//! Opening: adopt the files that a predecessor left, or make new ones. Here every half-done step of a killed daemon is brought to an end.
//!
//! | found | done |
//! |---|---|
//! | entry with an odd sequence | tombstone; its slot, VALID without a name, is recycled |
//! | entry names a slot that is LEASED, READING or VALID | VALID: the entry is stored last before the state, after verification |
//! | slot VALID or RECYCLING without a name | recycled under a new epoch |
//! | slot READING without a name | quarantined: the dead daemon's read may still land in it |
//! | slot GRANTING | LEASED if the engine's ring shows it as the last one, else free |
//! | slot RECALLING | free if the engine's ring shows that it was taken back, else LEASED |
//! | slot LEASED to an incarnation that is gone | recycled |
//! | operation at a ring's tail | carried out again before anything is granted |

use std::collections::{BTreeSet, HashMap};
use std::fs::{File, OpenOptions as FileOptions, TryLockError};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::{CWD, FallocateFlags, FileType, Mode, OFlags};

use crate::arena::{self, Arena, Slot, SlotState};
use crate::clock;
use crate::control::{Ctl, REFUSED_STALE, incarnation_of, load_id, store_id};
use crate::error::{CoreError, Result};
use crate::guard::GuardedRange;
use crate::index::{Index, IndexShape};
use crate::layout::*;
use crate::nvme::{NvmeConfig, NvmeStore};
use crate::seqlock::{EntryValue, LIVE};

use super::recycle::Recycling;
use super::strangers::Strangers;
use super::tier::{Tier, TierState};
use super::{Event, Gauges, Plane, key_of, poll, stats, tiers_of};

/// What a plane is opened with.
#[derive(Clone, Debug)]
pub struct OpenOptions {
    /// Where the pod's volumes are mounted.
    pub root: PathBuf,
    /// Wanted arena; rounded down to 64 KiB, at least 64 MiB.
    pub arena_bytes: u64,
    /// Upper bound of the index file.
    pub index_bytes: u64,
    /// The NVMe tier: its folder under R/nvme and how it shall be.
    pub nvme: Option<(PathBuf, NvmeConfig)>,
    /// How long to wait for a predecessor to let go.
    pub lock_wait: Duration,
    /// How long a dead daemon's reads may still land in memory: above the device's timeout.
    pub foreign_read_quarantine: Duration,
    /// How long after its last process an engine's DMA may still run.
    pub dead_grace: Duration,
}

/// What open found and did.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// The files of a predecessor were kept.
    pub adopted: bool,
    /// Why not.
    pub reason: String,
    /// Wanted arena.
    pub arena_bytes_asked: u64,
    /// The arena that is there.
    pub arena_bytes: u64,
    /// Entries in the index.
    pub entries: u64,
    /// Chunks that survived in the index.
    pub adopted_chunks: u64,
    /// Entries whose writer died in the middle.
    pub repaired_entries: u64,
    /// Slots that a dead daemon's reads may still write.
    pub quarantined_slots: u64,
    /// Slots to recycle because nothing names them.
    pub requeued_slots: u64,
    /// Incarnations taken over.
    pub engines_kept: u64,
    /// The NVMe tier.
    pub nvme: NvmeReport,
}

/// What open found on NVMe.
#[derive(Clone, Debug, Default)]
pub struct NvmeReport {
    /// The tier's state right after open.
    pub state: TierState,
    /// A stable word when it is off or degraded.
    pub reason: String,
    /// The reason in a sentence.
    pub message: String,
    /// N of slot-N.
    pub slot_number: u32,
    /// Chunks move without the page cache.
    pub direct: bool,
    /// An existing store was adopted.
    pub adopted: bool,
    /// How I/O is done: [`crate::nvme::RungKind::name`].
    pub rung: &'static str,
    /// The store's random id.
    pub store_id: [u8; 16],
    /// Its capacity.
    pub capacity_bytes: u64,
}

impl Plane {
    /// Map what is there or make it anew.
    pub fn open(options: OpenOptions) -> Result<Self> {
        let run = make_folders(&options.root)?;
        let writer_lock = lock_writer(&options.root.join("index/writer.lock"), options.lock_wait)?;
        let doorbell = make_doorbell(&run.join("doorbell"))?;
        let mut report = Report { arena_bytes_asked: options.arena_bytes, ..Report::default() };
        let (index, arena) = adopt_or_create(&options, &run, &mut report)?;
        report.arena_bytes = index.shape().arena_bytes;
        report.entries = index.entry_count();
        let incarnation = index.header().daemon_incarnation.fetch_add(1, Ordering::AcqRel).wrapping_add(1);
        let strides = index.classes().iter().map(|record| record.stride_bytes.load(Ordering::Relaxed));
        let strides = strides.map(|stride| if stride_is_valid(stride) { stride } else { 0 }).collect();
        let mut plane = Self {
            run,
            _writer_lock: writer_lock,
            doorbell,
            tier: Tier::default(),
            arena_guard: GuardedRange::new(arena.bytes()),
            index,
            arena,
            incarnation,
            strides,
            engines: (0..MAX_INCARNATIONS).map(|_| None).collect(),
            strangers: Strangers::default(),
            events: Default::default(),
            adopted_left: 0,
            resident: HashMap::new(),
            recycling: Recycling::default(),
            quarantined: Default::default(),
            gauges: Gauges::default(),
            counters: stats::Counters::default(),
            due: poll::Due::default(),
            report,
            withdrawn: false,
            options,
        };
        plane.take_over();
        Ok(plane)
    }

    fn take_over(&mut self) {
        let keeps_nvme = self.open_tier();
        self.report.engines_kept = self.recall_engines() as u64;
        let named = self.adopt_entries(keeps_nvme);
        self.adopt_slots(named);
        self.tell_adopted();
        self.start_tier(keeps_nvme);
        self.seal_unlinked();
        // The operation at a tail may be half done: a slot that its first run freed must not be granted before its second run finds it free.
        for tag in 0..self.engines.len() {
            self.serve_ring(tag, 1);
        }
        self.index.bump_progress();
        self.pass();
    }

    /// Open the NVMe store if one is wanted; true when the entries' NVMe slots are this store's and complete.
    fn open_tier(&mut self) -> bool {
        let Some((dir, config)) = self.options.nvme.clone() else {
            self.report.nvme.reason = "not_configured".into();
            return false;
        };
        match NvmeStore::open(&dir, &config) {
            Ok((store, opened)) => {
                let header = self.index.header();
                let is_known = load_id(&header.nvme_store_id) == opened.store_id && opened.store_id != [0; 16];
                let keeps = is_known && header.scan_done.load(Ordering::Acquire) == 1;
                self.report.nvme = NvmeReport {
                    state: if keeps { TierState::Active } else { TierState::Scanning },
                    reason: opened.reason.clone(),
                    message: opened.message.clone(),
                    slot_number: opened.slot_number,
                    direct: opened.direct,
                    adopted: opened.adopted,
                    rung: store.rung().name(),
                    store_id: opened.store_id,
                    capacity_bytes: config.capacity_bytes,
                };
                self.tier.store = Some(store);
                self.tier.capacity_bytes = config.capacity_bytes;
                keeps
            }
            Err(error) => {
                (self.report.nvme.reason, self.report.nvme.message) = (error.reason().to_string(), error.to_string());
                self.tier.reason = error.reason().to_string();
                false
            }
        }
    }

    /// After the entries were brought in line with the store: let engines see the tier, find what they do not know.
    fn start_tier(&mut self, keeps_nvme: bool) {
        let header = self.index.header();
        let state = self.report.nvme.state;
        self.tier.state = state;
        self.tier.scan_done = keeps_nvme;
        if !keeps_nvme {
            store_id(&header.nvme_store_id, &self.report.nvme.store_id);
            if let Some(store) = &mut self.tier.store {
                store.start_scan();
            }
        }
        header.nvme_state.store(state as u32, Ordering::Release);
    }

    /// Walk the entries: repair, drop what cannot be, claim NVMe slots. Gives slot -> place of all that name a DRAM slot.
    fn adopt_entries(&mut self, keeps_nvme: bool) -> HashMap<u32, u64> {
        if !keeps_nvme {
            // Before the entries forget their slots: a successor that finds 1 would take the slots of forgotten entries for free.
            self.index.header().scan_done.store(0, Ordering::Release);
        }
        let mut named = HashMap::new();
        for place in 0..self.index.entry_count() {
            if self.index.entry(place).repair() {
                self.report.repaired_entries += 1;
                continue;
            }
            let old = self.index.entry(place).copy();
            if old.state != LIVE {
                continue;
            }
            let mut new = self.judge_entry(&old, place, keeps_nvme);
            if new.dram_slot != NO_DRAM
                && let Some(first) = named.insert(new.dram_slot, place)
            {
                // Two names for one slot: neither can be trusted.
                named.remove(&new.dram_slot);
                new.dram_slot = NO_DRAM;
                let other = self.index.entry(first).copy();
                self.replace_adopted(first, &other, &EntryValue { dram_slot: NO_DRAM, ..other });
            }
            self.replace_adopted(place, &old, &new);
        }
        named
    }

    fn judge_entry(&mut self, old: &EntryValue, place: u64, keeps_nvme: bool) -> EntryValue {
        let stride = self.stride_of_class(old.class);
        if stride == 0 || u64::from(old.length) > stride - PAGE_BYTES {
            return EntryValue { dram_slot: NO_DRAM, nvme_slot: NO_NVME, ..*old };
        }
        let claimed =
            old.nvme_slot != NO_NVME && keeps_nvme && self.tier.store.as_mut().is_some_and(|store| store.claim(old.nvme_slot, stride));
        if claimed {
            self.tier.note_place(old.nvme_slot, place);
        }
        EntryValue { nvme_slot: if claimed { old.nvme_slot } else { NO_NVME }, ..*old }
    }

    fn replace_adopted(&mut self, place: u64, old: &EntryValue, new: &EntryValue) {
        if new.dram_slot == NO_DRAM && new.nvme_slot == NO_NVME {
            self.index.remove(place);
        } else if new != old {
            self.index.update(place, new);
        }
    }

    /// Walk the slots and bring each one's state in line with the entry that names it, if any.
    fn adopt_slots(&mut self, mut named: HashMap<u32, u64>) {
        let mut found = Vec::new();
        self.arena.rebuild(&self.index, |slot, class, record| found.push((slot, class, record)));
        for (slot, class, record) in found {
            match named.remove(&slot) {
                Some(place) => self.adopt_named(slot, class, &record, place),
                None => self.adopt_unnamed(slot, class, &record),
            }
        }
        for place in named.into_values() {
            self.unname(place);
        }
    }

    fn unname(&mut self, place: u64) {
        let old = self.index.entry(place).copy();
        self.replace_adopted(place, &old, &EntryValue { dram_slot: NO_DRAM, ..old });
    }

    fn adopt_named(&mut self, slot: u32, class: u8, record: &Slot, place: u64) {
        let value = self.index.entry(place).copy();
        let holds = matches!(record.state, SlotState::Leased | SlotState::Valid | SlotState::Reading);
        if holds && value.class == class {
            self.mark(slot, SlotState::Valid, record.tag, class);
            self.note_resident(&value, place);
        } else {
            self.unname(place);
            self.adopt_unnamed(slot, class, &Slot { state: suspect(record.state), ..*record });
        }
    }

    fn adopt_unnamed(&mut self, slot: u32, class: u8, record: &Slot) {
        let engine = self.engines.get_mut(record.tag as usize).and_then(Option::as_mut);
        match (record.state, engine) {
            (SlotState::Free, _) => self.arena.put_back(&self.index, slot),
            (SlotState::Reading, _) => {
                self.mark(slot, SlotState::Quarantined, 0, class);
                self.quarantined.insert(slot);
                self.report.quarantined_slots += 1;
            }
            (SlotState::Quarantined, _) => {
                self.quarantined.insert(slot);
                self.report.quarantined_slots += 1;
            }
            (SlotState::Leased, Some(engine)) => {
                engine.leases.insert(slot, class);
            }
            (SlotState::Granting, Some(engine)) => {
                if engine.was_granted_last(slot) {
                    engine.leases.insert(slot, class);
                    self.mark(slot, SlotState::Leased, record.tag, class);
                } else {
                    self.mark(slot, SlotState::Free, 0, class);
                    self.arena.put_back(&self.index, slot);
                }
            }
            (SlotState::Recalling, Some(engine)) => {
                if engine.was_recalled(record.incarnation) {
                    self.mark(slot, SlotState::Free, 0, class);
                    self.arena.put_back(&self.index, slot);
                } else {
                    engine.leases.insert(slot, class);
                    self.mark(slot, SlotState::Leased, record.tag, class);
                }
            }
            (SlotState::Valid | SlotState::Recycling | SlotState::Leased | SlotState::Granting | SlotState::Recalling, _) => {
                self.mark(slot, SlotState::Recycling, 0, class);
                self.recycling.unlink(slot);
                self.report.requeued_slots += 1;
            }
        }
    }

    /// Tell what survived, least recently used first.
    fn tell_adopted(&mut self) {
        let places = 0..self.index.entry_count();
        let live = places.clone().filter(|place| self.index.entry(*place).copy().state == LIVE).count();
        // Of exactly that size, and of each chunk its place alone: millions survive, and the heap is capped.
        let mut survivors: Vec<(u32, u32)> = Vec::with_capacity(live);
        for place in places {
            let value = self.index.entry(place).copy();
            if value.state == LIVE {
                self.gauges.add(&value);
                survivors.push((self.index.entry(place).last_use.load(Ordering::Relaxed), place as u32));
            }
        }
        survivors.sort_unstable();
        self.report.adopted_chunks = survivors.len() as u64;
        self.adopted_left = survivors.len();
        self.events.reserve_exact(survivors.len());
        for (last_use, place) in survivors {
            let value = self.index.entry(place as _).copy();
            self.emit(Event::Adopted { key: key_of(&value), class: value.class, tiers: tiers_of(&value), last_use });
        }
    }
}

/// A slot whose entry cannot be right: nobody may get it before every reader has passed.
fn suspect(state: SlotState) -> SlotState {
    match state {
        SlotState::Reading | SlotState::Quarantined => state,
        _ => SlotState::Recycling,
    }
}

fn make_folders(root: &Path) -> Result<PathBuf> {
    for name in ["arena", "index", "run"] {
        let folder = root.join(name);
        std::fs::create_dir_all(&folder).map_err(|e| CoreError::io("create folder", &folder, e))?;
    }
    Ok(root.join("run"))
}

fn lock_writer(path: &Path, wait: Duration) -> Result<File> {
    let mut options = FileOptions::new();
    let file = options.read(true).write(true).create(true).truncate(false).open(path).map_err(|e| CoreError::io("open", path, e))?;
    let end = Instant::now() + wait;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if Instant::now() < end => std::thread::sleep(Duration::from_millis(5)),
            Err(TryLockError::WouldBlock) => return Err(CoreError::Busy { path: path.to_owned() }),
            Err(TryLockError::Error(error)) => return Err(CoreError::io("flock", path, error)),
        }
    }
}

/// Engines write in the folders of doorbell and arena: what else lies in the place of these goes, or the sidecar could never start again.
fn clear_unless(path: &Path, is_right: impl FnOnce(&std::fs::FileType) -> bool) -> Result<()> {
    let found = match std::fs::symlink_metadata(path) {
        Ok(found) if is_right(&found.file_type()) => return Ok(()),
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(CoreError::io("stat", path, error)),
    };
    let removed = if found.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
    // A folder of another user can be moved, if not emptied.
    removed
        .or_else(|_| std::fs::rename(path, path.with_extension(format!("displaced-{}", clock::now_ns()))))
        .map_err(|e| CoreError::io("remove what is in the place of", path, e))
}

fn make_doorbell(path: &Path) -> Result<OwnedFd> {
    clear_unless(path, FileTypeExt::is_fifo)?;
    open_doorbell(path).or_else(|_| {
        // One that cannot be opened, as an engine may have made it.
        clear_unless(path, |_| false)?;
        open_doorbell(path)
    })
}

fn open_doorbell(path: &Path) -> Result<OwnedFd> {
    match rustix::fs::mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(0o666), 0) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => {}
        Err(error) => return Err(CoreError::io("mkfifo", path, error)),
    }
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let doorbell = rustix::fs::open(path, flags, Mode::empty()).map_err(|e| CoreError::io("open", path, e))?;
    // Only its maker may change the mode; a predecessor's is right already.
    let _ = rustix::fs::fchmod(&doorbell, Mode::from_raw_mode(0o666));
    Ok(doorbell)
}

fn adopt_or_create(options: &OpenOptions, run: &Path, report: &mut Report) -> Result<(Index, Arena)> {
    let index_path = options.root.join("index/index");
    let arena_path = arena::path_of(&options.root);
    clear_unless(&arena_path, std::fs::FileType::is_file)?;
    let arena_len = std::fs::symlink_metadata(&arena_path).map(|found| found.len()).ok();
    let old = Index::open(&index_path, true);
    match old {
        Ok(index) if Some(index.shape().arena_bytes) == arena_len => {
            let bytes = index.shape().arena_bytes;
            let faulted = index.header().faulted_bytes.load(Ordering::Relaxed);
            match arena::open_file(&arena_path, bytes) {
                Ok(file) => {
                    let arena = Arena::map(file, &arena_path, bytes, faulted)?;
                    report.adopted = true;
                    return Ok((index, arena));
                }
                // Another file of the same size, which this user may not use.
                Err(error) => report.reason = error.to_string(),
            }
        }
        Ok(index) => {
            let len = arena_len.map_or("no".to_owned(), |len| len.to_string());
            report.reason = format!("the arena has {len} bytes, the index was made for {}", index.shape().arena_bytes);
        }
        Err(CoreError::Absent { .. }) => report.reason = "no index yet".into(),
        Err(error) => report.reason = error.to_string(),
    }
    let bytes = arena::usable_bytes(options.arena_bytes);
    let shape = IndexShape::within(bytes, options.index_bytes)?;
    // Without an index nothing can have been looked up, so an arena of the right size may stay where engines already mapped it.
    if index_path.exists() || arena_len.is_some_and(|len| len != bytes) {
        retire(&index_path, &arena_path, run)?;
    }
    let arena = Arena::map(arena::open_file(&arena_path, bytes)?, &arena_path, bytes, 0)?;
    Ok((Index::create(&index_path, shape)?, arena))
}

/// The control file's path, if it was refused and its descriptor had to stay open.
fn refuse_stale(path: &Path, may_keep: bool) -> Option<PathBuf> {
    let ctl = Ctl::open(path).ok()?;
    super::engine::mark_refused(&ctl, REFUSED_STALE);
    let is_kept = may_keep && ctl.is_held();
    if is_kept {
        ctl.leak();
    }
    is_kept.then(|| path.to_owned())
}

/// Every lookup MISSes, and the pages go back to the volume, which has room for one index and not for two. Page 0 stays: engines that map the
/// file look there first, whether it is still the index. One that is in the middle of a lookup finds zeroes, which name nothing.
fn empty_index(index: &File) -> io::Result<()> {
    // The magic comes first in every ABI.
    index.write_all_at(&[0; 8], 0)?;
    let rest = index.metadata()?.len().saturating_sub(PAGE_BYTES);
    if rest > 0 {
        rustix::fs::fallocate(index, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, PAGE_BYTES, rest)?;
    }
    Ok(())
}

/// Cut engines off an index and an arena that are about to be replaced: lookups MISS, control files refused, then new inodes.
fn retire(index_path: &Path, arena_path: &Path, run: &Path) -> Result<()> {
    match FileOptions::new().write(true).open(index_path) {
        Ok(index) => empty_index(&index).map_err(|e| CoreError::io("retire", index_path, e))?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(CoreError::io("open", index_path, error)),
    }
    // By this process already, in a try that failed later: its descriptor is still open, and each further try would keep one more.
    static RETIRED: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());
    let mut retired = RETIRED.lock().unwrap_or_else(PoisonError::into_inner);
    for found in std::fs::read_dir(run).map_err(|e| CoreError::io("read folder", run, e))?.flatten() {
        let is_ctl = found.file_name().to_str().and_then(incarnation_of).is_some();
        if is_ctl && !retired.contains(&found.path()) {
            // Kept open for attachments of this same process, of which there are none in a pod; however many files engines made.
            let may_keep = retired.len() < MAX_INCARNATIONS;
            retired.extend(refuse_stale(&found.path(), may_keep));
        }
    }
    clear_unless(arena_path, |_| false)
}
