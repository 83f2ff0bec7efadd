//! The store: allocation, submissions, the scan and the breaker, all on the owner's thread; the bytes move in [`crate::io`].

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::fs::File;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;

use super::breaker::Breaker;
use super::extents::Extents;
use super::folder::Folder;
use super::format::{Geometry, TABLE_ENTRIES_PER_PAGE, encode_table_page};
use super::{Completion, Direct, NvmeConfig, NvmeError, OpenReport};
use crate::checksum::Digest;
use crate::clock;
use crate::header::{HeaderFault, Page, SlotHeader, quarantine_page};
use crate::io::{
    Device, Done, FileDevice, Identity, IoFault, Job, Outcome, Pages, Refusal, Rung, RungKind, Terms, Urgency, Work, climb, probe,
};
use crate::layout::PAGE_BYTES;

/// What a power cut may take: at most this old and this much.
const SYNC_AFTER: Duration = Duration::from_secs(5);
const SYNC_AFTER_BYTES: u64 = 4 << 30;
/// Headers per scan job: short enough that a read never waits long behind one.
const SCAN_BATCH: usize = 32;
/// Scan jobs at the rung: enough that none of its workers waits for the owner.
const SCAN_JOBS: usize = 16;

/// Figures since open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreStats {
    /// Slots read.
    pub reads: u64,
    /// Slots written.
    pub writes: u64,
    /// Bytes read, headers and padding included; the scan is not.
    pub read_bytes: u64,
    /// Bytes written, likewise.
    pub written_bytes: u64,
    /// fdatasyncs done.
    pub syncs: u64,
    /// I/Os that the device failed.
    pub faults: u64,
    /// I/Os that took longer than they may.
    pub late: u64,
    /// Times the breaker opened.
    pub breaker_opened: u64,
    /// Reads and writes that were not begun.
    pub queued: u64,
    /// Slots in use.
    pub used_slots: u64,
    /// Slots not scanned yet.
    pub unknown_slots: u64,
}

/// What a token stands for.
#[derive(Debug)]
enum Pending {
    Read { token: u64, len: u64 },
    Write { token: u64, len: u64 },
    Quarantine { token: Option<u64>, slot: u64 },
    Format { extent: u64, stride_pages: u32 },
    Scan { slots: Vec<u64> },
    Probe,
    Sync,
}

#[derive(Debug, Default)]
struct Scan {
    next_extent: u64,
    backlog: VecDeque<u64>,
    in_flight: usize,
    /// Failed once; a second time they are given up.
    failed: HashSet<u64>,
}

#[derive(Debug, Default)]
struct Durability {
    dirty_bytes: u64,
    dirty_since_ns: u64,
    in_flight: bool,
}

/// One store. All methods return at once, `sync` and drop excepted.
///
/// Memory given to a submission stays mapped until its completion was taken or the store was dropped.
#[derive(Debug)]
pub struct NvmeStore {
    rung: Box<dyn Rung>,
    refusals: Vec<Refusal>,
    geometry: Geometry,
    extents: Extents,
    breaker: Breaker,
    /// Strides that the device's table names.
    table: Vec<u32>,
    /// Writes that wait until their extent is formatted.
    forming: BTreeMap<u64, Vec<(Pending, Work)>>,
    format_in_flight: bool,
    /// Damaged headers that wait for the breaker to close.
    deferred: Vec<(Option<u64>, u64)>,
    pending: HashMap<u64, Pending>,
    next_token: u64,
    scan: Option<Scan>,
    durability: Durability,
    ready: Vec<Completion>,
    stats: StoreStats,
    _lock: File,
}

impl NvmeStore {
    /// Adopt or make the first free slot's store in `dir`. Blocks for the allocation of a new one; starts no scan.
    pub fn open(dir: &Path, config: &NvmeConfig) -> Result<(Self, OpenReport), NvmeError> {
        Self::open_on(dir, config, |device| Arc::new(device))
    }

    /// As [`Self::open`], over what `wrap` makes of the proved file: for devices that fail.
    pub fn open_on(
        dir: &Path,
        config: &NvmeConfig,
        wrap: impl FnOnce(FileDevice) -> Arc<dyn Device>,
    ) -> Result<(Self, OpenReport), NvmeError> {
        if config.io_threads == 0 || config.deadline.is_zero() {
            return Err(NvmeError::Invalid("io_threads 0 or deadline 0 moves nothing; give at least 1 thread and 1 ms".into()));
        }
        let folder = Folder::open(dir, config)?;
        let (device, refusal) = open_device(&folder, config.direct)?;
        let report = report(&folder, device.is_direct(), refusal);
        let terms = Terms {
            best: config.best_rung,
            is_direct: device.is_direct(),
            threads: config.io_threads,
            scratch_offset: folder.geometry.scratch_offset(),
        };
        let climbed = climb(&wrap(device), Identity, &terms).map_err(|error| NvmeError::io("starting I/O", dir, error))?;
        Ok((Self::assemble(folder, climbed, config), report))
    }

    fn assemble(folder: Folder, (rung, refusals): (Box<dyn Rung>, Vec<Refusal>), config: &NvmeConfig) -> Self {
        let mut extents = Extents::new(folder.geometry, &folder.strides);
        for table_page in folder.damaged_table_pages {
            let first = table_page * TABLE_ENTRIES_PER_PAGE;
            (first..(first + TABLE_ENTRIES_PER_PAGE).min(folder.geometry.extent_count)).for_each(|extent| extents.distrust(extent));
        }
        Self {
            rung,
            refusals,
            geometry: folder.geometry,
            extents,
            breaker: Breaker::new(config.deadline),
            table: folder.strides,
            forming: BTreeMap::new(),
            format_in_flight: false,
            deferred: Vec::new(),
            pending: HashMap::new(),
            next_token: 0,
            scan: None,
            durability: Durability::default(),
            ready: Vec::new(),
            stats: StoreStats::default(),
            _lock: folder.lock,
        }
    }

    /// A slot to write to, in use from now on. None: all are in use.
    pub fn alloc(&mut self, stride_bytes: u64) -> Option<u64> {
        let found = self.extents.alloc(stride_bytes)?;
        if let Some(extent) = found.format {
            self.forming.entry(extent).or_default();
        }
        Some(found.slot)
    }

    /// Give a slot back. No I/O of it may be in flight. One that is not in use is left alone.
    pub fn free(&mut self, slot: u64) {
        self.extents.free(slot);
    }

    /// Take a slot that a surviving index names. False: no such slot of this stride, or in use already.
    pub fn claim(&mut self, slot: u64, stride_bytes: u64) -> bool {
        self.extents.claim(slot, stride_bytes)
    }

    /// Remember at which place the owner's index names a slot in use.
    pub fn note_place(&mut self, slot: u64, place: u64) {
        self.extents.note_place(slot, place);
    }

    /// (slot, place noted for it) of an extent's slots in use.
    pub fn places_of(&self, extent: u64) -> impl Iterator<Item = (u64, u64)> {
        self.extents.places_of(extent)
    }

    /// The extent that a slot lies in.
    pub fn extent_of(&self, slot: u64) -> Option<u64> {
        self.extents.extent_of(slot)
    }

    /// How long an I/O that is submitted from now on may take.
    pub fn set_deadline(&mut self, deadline: Duration) {
        self.breaker.set_deadline(deadline);
    }

    /// (free, total) slots of a stride, those of extents that it could still draw included.
    pub fn usage(&self, stride_bytes: u64) -> (u64, u64) {
        self.extents.usage(stride_bytes)
    }

    /// Figures since open.
    pub fn stats(&self) -> StoreStats {
        StoreStats {
            breaker_opened: self.breaker.opened,
            queued: [Urgency::Demand, Urgency::Promotion, Urgency::Write].iter().map(|urgency| self.rung.queued(*urgency) as u64).sum(),
            used_slots: self.extents.used_slots(),
            unknown_slots: self.extents.unknown_slots(),
            ..self.stats
        }
    }

    /// How I/O is done now.
    pub fn rung(&self) -> RungKind {
        self.rung.kind()
    }

    /// Why it is not done in each better way.
    pub fn refusals(&self) -> Vec<Refusal> {
        self.refusals.iter().cloned().chain(self.rung.fallen()).collect()
    }

    /// Memory that submissions will name: from `base` on, `len` bytes are backed. Call again as `len` grows.
    pub fn cover(&self, base: *mut u8, len: usize) {
        self.rung.cover(base, len);
    }

    /// Readable while [`Self::completions`] has something to give.
    pub fn event_fd(&self) -> BorrowedFd<'_> {
        self.rung.event_fd()
    }

    /// Read a slot. `into` is page-aligned, shared memory, `len` bytes, the kernel's until the completion.
    pub fn submit_read(&mut self, urgency: Urgency, token: u64, slot: u64, into: *mut u8, len: usize) {
        let pending = Pending::Read { token, len: len as u64 };
        self.submit(urgency, pending, Work::Read { into, len, offset: slot * PAGE_BYTES });
    }

    /// Write a slot, header first in one piece with its payload. `from` as for reads; it must not change until the completion.
    pub fn submit_write(&mut self, token: u64, slot: u64, from: *const u8, len: usize) {
        let pending = Pending::Write { token, len: len as u64 };
        let work = Work::Write { from, len, offset: slot * PAGE_BYTES };
        match self.extents.extent_of(slot).and_then(|extent| self.forming.get_mut(&extent)) {
            Some(waiting) if !self.breaker.is_open() => {
                waiting.push((pending, work));
                self.format_next();
            }
            _ => self.submit(Urgency::Write, pending, work),
        }
    }

    /// Overwrite the header of a slot in use whose chunk is damaged; the slot is free afterwards. Waits for an open breaker.
    pub fn submit_quarantine(&mut self, token: u64, slot: u64, _stride_bytes: u64) {
        self.quarantine(Some(token), slot);
    }

    /// Read the headers of all slots that are not claimed, behind the serving.
    pub fn start_scan(&mut self) {
        self.extents.forget_free();
        self.scan = Some(Scan::default());
        self.continue_scan();
    }

    /// Move completions in order to `into`. Call at least every 200 ms: this also watches deadlines, probes and scans.
    pub fn completions(&mut self, into: &mut Vec<Completion>) {
        self.pump();
        into.append(&mut self.ready);
    }

    /// Start fdatasync when 5 s or 4 GiB were written since the last.
    pub fn sync_if_due(&mut self) {
        let age_ns = clock::now_ns().saturating_sub(self.durability.dirty_since_ns);
        let is_due = self.durability.dirty_bytes >= SYNC_AFTER_BYTES || age_ns >= SYNC_AFTER.as_nanos() as u64;
        if self.durability.dirty_bytes > 0 && is_due && !self.durability.in_flight && !self.breaker.is_open() {
            self.start_sync();
        }
    }

    /// Wait for writes and quarantines in flight and make them durable, or give up at the deadline. Blocks.
    pub fn sync(&mut self, deadline: Duration) {
        let end_ns = clock::now_ns() + deadline.as_nanos() as u64;
        loop {
            self.pump();
            let is_busy = self.pending.values().any(|pending| !matches!(pending, Pending::Read { .. } | Pending::Scan { .. }));
            let is_dirty = self.durability.dirty_bytes > 0;
            let left_ns = end_ns.saturating_sub(clock::now_ns());
            if !(is_busy || is_dirty) || left_ns == 0 || self.breaker.is_open() {
                break;
            }
            if !is_busy {
                self.start_sync();
            }
            self.wait(left_ns.min(50_000_000));
        }
        self.ring_if_ready();
    }

    fn wait(&self, wait_ns: u64) {
        let timeout = Timespec { tv_sec: 0, tv_nsec: wait_ns as i64 };
        // A signal or an error only means an early look.
        let _ = poll(&mut [PollFd::new(&self.rung.event_fd(), PollFlags::IN)], Some(&timeout));
    }

    fn start_sync(&mut self) {
        // What is written from here on is for the next one.
        self.durability = Durability { in_flight: true, ..Durability::default() };
        self.submit(Urgency::Upkeep, Pending::Sync, Work::Sync);
    }

    fn submit(&mut self, urgency: Urgency, pending: Pending, work: Work) {
        if self.breaker.is_open() && !matches!(pending, Pending::Probe) {
            self.abandon(pending);
            self.ring_if_ready();
            return;
        }
        let ahead = self.rung.in_flight_bytes();
        let allowance = match &pending {
            Pending::Read { len, .. } => self.breaker.read_allowance(*len + ahead),
            Pending::Write { len, .. } => self.breaker.write_allowance(*len + ahead),
            Pending::Scan { slots } => self.breaker.read_allowance(0) * slots.len() as u32,
            Pending::Quarantine { .. } | Pending::Probe => self.breaker.write_allowance(PAGE_BYTES),
            Pending::Format { .. } | Pending::Sync => self.breaker.sync_allowance(),
        };
        self.next_token += 1;
        self.pending.insert(self.next_token, pending);
        self.rung.submit(urgency, Job { token: self.next_token, work, allowance });
    }

    fn quarantine(&mut self, token: Option<u64>, slot: u64) {
        let work = Work::WritePage { page: Box::new(quarantine_page()), offset: slot * PAGE_BYTES };
        self.submit(Urgency::Upkeep, Pending::Quarantine { token, slot }, work);
    }

    /// What was submitted but will not be tried.
    fn abandon(&mut self, pending: Pending) {
        let result = Err(IoFault::Unavailable);
        match pending {
            Pending::Read { token, .. } => self.ready.push(Completion::Read { token, result: Err(IoFault::Unavailable) }),
            Pending::Write { token, .. } => self.ready.push(Completion::Written { token, result }),
            Pending::Quarantine { token, slot } => self.deferred.push((token, slot)),
            Pending::Format { .. } => self.format_in_flight = false,
            Pending::Scan { slots } => self.take_back_scan(slots),
            Pending::Sync => self.durability.in_flight = false,
            Pending::Probe => {}
        }
    }

    fn pump(&mut self) {
        for done in self.rung.take_done() {
            self.finish(done);
        }
        for token in self.rung.overdue() {
            self.note_late(token);
        }
        // An I/O that still hangs would open the breaker again at once; its own return is the better probe.
        let now_ns = clock::now_ns();
        if self.breaker.is_open() && self.rung.late_count() == 0 && self.breaker.probe_due(now_ns) {
            self.submit(Urgency::Upkeep, Pending::Probe, Work::Probe { offset: self.geometry.scratch_offset(), stamp: now_ns | 1 });
        }
        self.continue_scan();
    }

    fn note_late(&mut self, token: u64) {
        self.stats.late += 1;
        if let Some(Pending::Read { token, .. } | Pending::Write { token, .. }) = self.pending.get(&token) {
            let token = *token;
            self.ready.push(Completion::Late { token });
        }
        self.trip("timeout");
    }

    fn finish(&mut self, done: Done) {
        let Some(pending) = self.pending.remove(&done.token) else { return };
        match (pending, done.outcome) {
            (Pending::Scan { slots }, Outcome::Pages(pages)) => self.end_scan_job(slots, pages),
            (Pending::Probe, Outcome::Plain(result)) => self.end_probe(result.is_ok() && !done.was_late),
            (Pending::Read { token, len }, Outcome::Slot(result)) => self.end_read(token, len, result),
            (pending, Outcome::Plain(result)) => self.end_plain(pending, result),
            // Only a scan reads pages, only a read a slot.
            (pending, Outcome::Pages(_) | Outcome::Slot(_)) => self.abandon(pending),
        }
    }

    fn end_read(&mut self, token: u64, len: u64, result: Result<Digest, IoFault>) {
        self.stats.reads += 1;
        self.stats.read_bytes += if result.is_ok() { len } else { 0 };
        self.ready.push(Completion::Read { token, result });
        if let Some(reason) = result.err().and_then(IoFault::breaker_reason) {
            self.stats.faults += 1;
            self.trip(reason);
        }
    }

    fn end_plain(&mut self, pending: Pending, result: Result<(), IoFault>) {
        let reason = result.err().and_then(IoFault::breaker_reason);
        self.stats.faults += u64::from(reason.is_some());
        match pending {
            Pending::Write { token, len } => {
                self.stats.writes += 1;
                self.stats.written_bytes += if result.is_ok() { len } else { 0 };
                self.note_dirty(len);
                self.ready.push(Completion::Written { token, result });
            }
            Pending::Quarantine { token, slot } => self.end_quarantine(token, slot, result),
            Pending::Format { extent, stride_pages } => self.end_format(extent, stride_pages, result),
            Pending::Sync => {
                self.durability.in_flight = false;
                self.stats.syncs += u64::from(result.is_ok());
            }
            Pending::Read { .. } | Pending::Scan { .. } | Pending::Probe => {}
        }
        if let Some(reason) = reason {
            self.trip(reason);
        }
    }

    fn end_quarantine(&mut self, token: Option<u64>, slot: u64, result: Result<(), IoFault>) {
        self.note_dirty(PAGE_BYTES);
        if result.is_ok() {
            self.extents.free(slot);
        }
        if let Some(token) = token {
            self.ready.push(Completion::Quarantined { token, result });
        }
    }

    fn note_dirty(&mut self, len: u64) {
        if self.durability.dirty_bytes == 0 {
            self.durability.dirty_since_ns = clock::now_ns();
        }
        self.durability.dirty_bytes += len;
    }

    /// One at a time: two formats of one table page must not overtake each other.
    fn format_next(&mut self) {
        if self.format_in_flight || self.breaker.is_open() {
            return;
        }
        let Some(extent) = self.forming.iter().find(|(_, waiting)| !waiting.is_empty()).map(|(extent, _)| *extent) else { return };
        let stride_pages = self.extents.stride_pages(extent);
        let table_page = extent / TABLE_ENTRIES_PER_PAGE;
        let first = (table_page * TABLE_ENTRIES_PER_PAGE) as usize;
        let last = (first + TABLE_ENTRIES_PER_PAGE as usize).min(self.table.len());
        let mut strides = self.table[first..last].to_vec();
        strides[extent as usize - first] = stride_pages;
        let zero = (self.geometry.extent_offset(extent), self.geometry.extent_bytes(extent));
        let work = Work::Format {
            zero: self.extents.was_formatted(extent).then_some(zero),
            table: Box::new(encode_table_page(table_page, &strides)),
            table_offset: Geometry::table_offset(table_page),
        };
        self.extents.formatted(extent);
        self.format_in_flight = true;
        self.submit(Urgency::Upkeep, Pending::Format { extent, stride_pages }, work);
    }

    fn end_format(&mut self, extent: u64, stride_pages: u32, result: Result<(), IoFault>) {
        self.format_in_flight = false;
        if let Err(fault) = result {
            // The extent stays to be formatted; who waited for it does not.
            let waiting = self.forming.get_mut(&extent).map(std::mem::take).unwrap_or_default();
            waiting.into_iter().for_each(|(pending, _)| self.fail_write(pending, fault));
            return;
        }
        self.table[extent as usize] = stride_pages;
        // Emptied and drawn by another class meanwhile: it is formatted again before that class writes.
        if self.extents.stride_pages(extent) == stride_pages {
            for (pending, work) in self.forming.remove(&extent).unwrap_or_default() {
                self.submit(Urgency::Write, pending, work);
            }
        }
        self.format_next();
    }

    fn fail_write(&mut self, pending: Pending, fault: IoFault) {
        if let Pending::Write { token, .. } = pending {
            self.ready.push(Completion::Written { token, result: Err(fault) });
        }
    }

    fn trip(&mut self, reason: &'static str) {
        if !self.breaker.open(clock::now_ns()) {
            return;
        }
        self.ready.push(Completion::Breaker { reason });
        for job in self.rung.take_queued() {
            if let Some(pending) = self.pending.remove(&job.token) {
                self.abandon(pending);
            }
        }
        let waiting: Vec<_> = self.forming.values_mut().flat_map(std::mem::take).collect();
        waiting.into_iter().for_each(|(pending, _)| self.abandon(pending));
    }

    fn end_probe(&mut self, worked: bool) {
        if !self.breaker.probed(worked, clock::now_ns()) {
            return;
        }
        self.ready.push(Completion::BreakerClosed);
        for (token, slot) in std::mem::take(&mut self.deferred) {
            self.quarantine(token, slot);
        }
    }

    fn ring_if_ready(&self) {
        if !self.ready.is_empty() {
            self.rung.ring();
        }
    }
}

/// The scan.
impl NvmeStore {
    fn continue_scan(&mut self) {
        if self.breaker.is_open() {
            return;
        }
        while let Some(slots) = self.next_batch() {
            let offsets = slots.iter().map(|slot| slot * PAGE_BYTES).collect();
            self.submit(Urgency::Scan, Pending::Scan { slots }, Work::ReadPages { offsets });
        }
        let extent_count = self.geometry.extent_count;
        let is_over = |scan: &Scan| scan.next_extent == extent_count && scan.backlog.is_empty() && scan.in_flight == 0;
        if self.scan.as_ref().is_some_and(is_over) {
            self.scan = None;
            self.ready.push(Completion::ScanDone);
            self.ring_if_ready();
        }
    }

    /// Slots to read next; None when enough is in flight or nothing is left.
    fn next_batch(&mut self) -> Option<Vec<u64>> {
        let scan = self.scan.as_mut().filter(|scan| scan.in_flight < SCAN_JOBS)?;
        while scan.backlog.is_empty() && scan.next_extent < self.geometry.extent_count {
            scan.backlog.extend(self.extents.unknown_of(scan.next_extent));
            scan.next_extent += 1;
        }
        let count = scan.backlog.len().min(SCAN_BATCH);
        let slots: Vec<u64> = scan.backlog.drain(..count).collect();
        if slots.is_empty() {
            return None;
        }
        scan.in_flight += 1;
        Some(slots)
    }

    fn take_back_scan(&mut self, slots: Vec<u64>) {
        if let Some(scan) = &mut self.scan {
            scan.in_flight -= 1;
            scan.backlog.extend(slots);
        }
    }

    fn end_scan_job(&mut self, slots: Vec<u64>, pages: Pages) {
        if let Some(scan) = &mut self.scan {
            scan.in_flight -= 1;
        }
        for (slot, (_, page)) in slots.into_iter().zip(pages) {
            // Handed out meanwhile: what lay there is of no interest.
            if !self.extents.is_unknown(slot) {
                continue;
            }
            match page {
                Ok(page) => self.judge_scanned(slot, &page),
                Err(fault) => self.note_unreadable(slot, fault),
            }
        }
    }

    fn judge_scanned(&mut self, slot: u64, page: &Page) {
        let stride = self.extents.stride_of_slot(slot).unwrap_or(0);
        match SlotHeader::decode(page) {
            Ok(header) => {
                self.extents.settle(slot, true);
                self.ready.push(Completion::Scanned { slot, stride, header });
            }
            Err(HeaderFault::Blank | HeaderFault::Quarantined) => self.extents.settle(slot, false),
            Err(fault) => {
                self.extents.settle(slot, true);
                self.ready.push(Completion::ScanFault { slot, reason: fault.to_string() });
                self.quarantine(None, slot);
            }
        }
    }

    /// Once may be the whole device's fault; twice is the page's, and its slot stays out of use.
    fn note_unreadable(&mut self, slot: u64, fault: IoFault) {
        let is_first = self.scan.as_mut().is_some_and(|scan| scan.failed.insert(slot));
        if let Some(scan) = self.scan.as_mut().filter(|_| is_first) {
            scan.backlog.push_back(slot);
        } else {
            self.extents.settle(slot, true);
            self.ready.push(Completion::ScanFault { slot, reason: fault.to_string() });
        }
        self.stats.faults += 1;
        if let Some(reason) = fault.breaker_reason() {
            self.trip(reason);
        }
    }
}

fn report(folder: &Folder, direct: bool, refusal: Option<String>) -> OpenReport {
    let mut reason = "";
    let mut messages = Vec::new();
    if let Some(why) = &folder.reformatted {
        reason = "reformatted";
        messages.push(format!("{}: the store was made anew: {why}", folder.path.display()));
    }
    if !folder.damaged_table_pages.is_empty() {
        reason = "table_damaged";
        let pages = folder.damaged_table_pages.len();
        messages.push(format!("{}: {pages} pages of the extent table are damaged, their extents' chunks are lost", folder.path.display()));
    }
    if let Some(why) = refusal {
        reason = "buffered";
        messages.push(format!("{}: O_DIRECT does not work here ({why}), the page cache is used", folder.path.display()));
    }
    OpenReport {
        slot_number: folder.slot_number,
        adopted: folder.adopted,
        direct,
        reason: reason.into(),
        message: messages.join("; "),
        store_id: folder.store_id,
    }
}

/// The store's file by the best way that works, and why O_DIRECT does not.
fn open_device(folder: &Folder, direct: Direct) -> Result<(FileDevice, Option<String>), NvmeError> {
    let buffered = |refusal| match proved(folder, OFlags::empty()) {
        Ok(device) => Ok((device, refusal)),
        Err(source) => Err(NvmeError::Io { what: "trying the store", path: folder.path.clone(), source }),
    };
    if direct == Direct::Off {
        return buffered(None);
    }
    let refusal = match proved(folder, OFlags::DIRECT) {
        Ok(device) if device.is_direct() => return Ok((device, None)),
        Ok(_) => "the kernel ignored it".to_string(),
        Err(error) => error.to_string(),
    };
    match direct {
        Direct::Required => Err(NvmeError::DirectUnavailable { path: folder.path.clone(), why: refusal }),
        _ => buffered(Some(refusal)),
    }
}

/// The file opened with these flags, after a page was written, read back and compared.
fn proved(folder: &Folder, flags: OFlags) -> std::io::Result<FileDevice> {
    let device = FileDevice::new(folder.open_store(flags)?)?;
    match probe(&device, folder.geometry.scratch_offset(), clock::now_ns() | 1) {
        Ok(()) => Ok(device),
        Err(IoFault::Device(errno)) => Err(std::io::Error::from_raw_os_error(errno)),
        Err(fault) => Err(std::io::Error::other(fault)),
    }
}
