//! The NVMe tier under the plane: what is in flight, what a read must turn out to be, and the verification that makes a HIT.
//!
//! A read lands in a slot marked READING; only after header, whole key, fingerprint and checksum were verified does its entry name the slot. The
//! store digests what arrives on its own threads. A chunk that fails is quarantined: its entry forgets NVMe and the header on the device is
//! overwritten before the slot is used again.
//!
//! A write carries the digest that the chunk was published with and digests nothing: whatever happened to the bytes in between, on their way or on the
//! device is found when they come back, before anybody is told of a HIT.

use std::collections::{BTreeSet, HashMap};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::Ordering;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::arena::{Arena, SlotState};
use crate::checksum::Digest;
use crate::clock;
use crate::header::SlotHeader;
use crate::key::{self, Key16};
use crate::layout::*;
use crate::nvme::{Completion, IoFault, NvmeStore, Refusal, StoreStats, Urgency};
use crate::seqlock::{EntryValue, LIVE};

use super::expected::Expected;
use super::{Event, Hop, MAX_GENERATION, Outcome, Plane, TIER_DRAM, TIER_NVME, key_of};

/// What the tier is doing; the numbers are those of the index header's nvme_state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u32)]
pub enum TierState {
    /// Not configured or not usable at open.
    #[default]
    Off = 0,
    /// Serving; the scan runs behind.
    Scanning = 1,
    /// Serving.
    Active = 2,
    /// The breaker is open.
    Broken = 3,
}

#[derive(Debug)]
struct Read {
    key: Key16,
    nvme_slot: u64,
    dram_slot: u32,
    class: u8,
    since_ns: u64,
    /// Given up; only its buffer is waited for.
    late: bool,
}

#[derive(Debug)]
struct Write {
    key: Key16,
    nvme_slot: u64,
    dram_slot: u32,
    class: u8,
    length: u32,
    generation: u64,
}

#[derive(Debug, Default)]
pub(super) struct Tier {
    pub store: Option<NvmeStore>,
    pub state: TierState,
    pub reason: String,
    pub capacity_bytes: u64,
    pub scan_done: bool,
    next_token: u64,
    reads: HashMap<u64, Read>,
    reading: HashMap<Key16, u64>,
    writes: HashMap<u64, Write>,
    writing: HashMap<Key16, u64>,
    pub expected: Expected,
    completions: Vec<Completion>,
    /// The arena as far as the store knows it.
    covered_bytes: u64,
    scanned: (u64, u64),
    #[cfg(feature = "swap-chunks")]
    in_hand: Vec<u8>,
}

impl Tier {
    pub fn is_usable(&self) -> bool {
        self.store.is_some() && matches!(self.state, TierState::Scanning | TierState::Active)
    }

    pub fn capacity_bytes(&self) -> u64 {
        if self.store.is_some() { self.capacity_bytes } else { 0 }
    }

    pub fn is_writing(&self, key: Key16) -> bool {
        self.writing.contains_key(&key)
    }

    pub fn is_reading(&self, key: Key16) -> bool {
        self.reading.contains_key(&key)
    }

    pub fn reads_in_flight(&self) -> usize {
        self.reads.len()
    }

    pub fn writes_in_flight(&self) -> usize {
        self.writes.len()
    }

    pub fn event_fd(&self) -> Option<BorrowedFd<'_>> {
        self.store.as_ref().map(NvmeStore::event_fd)
    }

    pub fn wait(&self, timeout: Duration) {
        let Some(fd) = self.event_fd() else { return };
        let timeout = Timespec { tv_sec: timeout.as_secs() as i64, tv_nsec: i64::from(timeout.subsec_nanos()) };
        // A signal or an error only means an early look.
        let _ = poll(&mut [PollFd::new(&fd.as_fd(), PollFlags::IN)], Some(&timeout));
    }

    pub fn sync(&mut self, deadline: Duration) {
        if let Some(store) = &mut self.store {
            store.sync(deadline);
        }
    }

    /// The entry at `place` names this slot from now on.
    pub fn note_place(&mut self, nvme_slot: u64, place: u64) {
        if nvme_slot != NO_NVME
            && let Some(store) = &mut self.store
        {
            store.note_place(nvme_slot, place);
        }
    }

    fn token(&mut self) -> u64 {
        self.next_token += 1;
        self.next_token
    }
}

impl Plane {
    /// (free, total) NVMe slots of a class.
    pub fn nvme_slots(&self, class: u8) -> (u64, u64) {
        match (&self.tier.store, self.stride_of_class(class)) {
            (Some(store), stride) if stride > 0 => store.usage(stride),
            _ => (0, 0),
        }
    }

    /// State and reason of the NVMe tier.
    pub fn nvme_state(&self) -> (TierState, &str) {
        (self.tier.state, &self.tier.reason)
    }

    /// True once every slot of the store is known.
    pub fn is_scan_done(&self) -> bool {
        self.tier.scan_done
    }

    /// Start promoting chunks; one answer per key.
    pub fn read(&mut self, keys: &[Key16]) -> Vec<bool> {
        let mut answer = |key: &Key16| match self.tier.reading.get(key).and_then(|token| self.tier.reads.get(token)) {
            Some(read) => !read.late,
            None => self.tier.is_reading(*key) || self.start_read(*key).is_some(),
        };
        keys.iter().map(&mut answer).collect()
    }

    fn start_read(&mut self, key: Key16) -> Option<()> {
        let (_, value) = self.index.find(key)?;
        let wanted = value.dram_slot == NO_DRAM && value.nvme_slot != NO_NVME;
        if !wanted || !self.tier.is_usable() || self.withdrawn {
            return None;
        }
        let stride = self.stride_of_class(value.class);
        let slot = self.arena.take(&self.index, value.class, stride)?;
        // Marked before the read is submitted: should this daemon die, its successor must not reuse the slot while the read may still land.
        self.mark(slot, SlotState::Reading, 0, value.class);
        crate::crash::point("reading");
        let token = self.tier.token();
        let read = Read { key, nvme_slot: value.nvme_slot, dram_slot: slot, class: value.class, since_ns: clock::now_ns(), late: false };
        self.tier.reads.insert(token, read);
        self.tier.reading.insert(key, token);
        let into = self.arena.bytes().ptr_at(Arena::offset(slot), stride as usize);
        // An engine asked and waits, or policy expects that one will.
        let urgency = if self.tier.expected.told(key).is_some() { Urgency::Demand } else { Urgency::Promotion };
        self.tier.store.as_mut()?.submit_read(urgency, token, value.nvme_slot, into, stride as usize);
        Some(())
    }

    /// Start writing chunks; one answer per key.
    pub fn write(&mut self, keys: &[Key16]) -> Vec<bool> {
        let answers = keys.iter().map(|key| self.start_write(*key).is_some()).collect();
        self.seal_unlinked();
        answers
    }

    fn start_write(&mut self, key: Key16) -> Option<()> {
        let (place, value) = self.index.find(key)?;
        let wanted = value.dram_slot != NO_DRAM && value.nvme_slot == NO_NVME && !self.tier.is_writing(key);
        if !wanted || !self.tier.is_usable() || self.withdrawn {
            return None;
        }
        let stride = self.stride_of_class(value.class);
        let nvme_slot = self.tier.store.as_mut()?.alloc(stride)?;
        let mut header = match self.inspect(value.dram_slot, stride, &value) {
            Ok(header) => header,
            Err(outcome) => {
                self.drop_damaged_dram(place, &value, nvme_slot, outcome);
                return None;
            }
        };
        (header.position, header.generation) = (nvme_slot, self.next_generation());
        let mut page = [0; PAGE_BYTES as usize];
        header.encode_into(&mut page);
        self.arena.bytes().write(Arena::offset(value.dram_slot), &page);
        let token = self.tier.token();
        let write =
            Write { key, nvme_slot, dram_slot: value.dram_slot, class: value.class, length: value.length, generation: header.generation };
        self.tier.writes.insert(token, write);
        self.tier.writing.insert(key, token);
        let from = self.arena.bytes().ptr_at(Arena::offset(value.dram_slot), stride as usize);
        self.tier.store.as_mut()?.submit_write(token, nvme_slot, from, stride as usize);
        Some(())
    }

    /// An engine wrote over a published chunk's header: it must not reach the device, and not be served any longer.
    fn drop_damaged_dram(&mut self, place: u64, value: &EntryValue, nvme_slot: u64, outcome: Outcome) {
        if let Some(store) = &mut self.tier.store {
            store.free(nvme_slot);
        }
        self.counters.quarantine(outcome);
        self.emit(Event::Quarantined { key: Some(key_of(value)), outcome, tier: TIER_DRAM });
        self.unlink_entry(place, value);
    }

    /// Forget chunks on NVMe; one answer per key. Refused: unknown, not there, being read or written.
    pub fn evict_nvme(&mut self, keys: &[Key16]) -> Vec<bool> {
        keys.iter().map(|key| self.forget_nvme(*key)).collect()
    }

    fn forget_nvme(&mut self, key: Key16) -> bool {
        let Some((place, value)) = self.index.find(key) else { return false };
        if value.nvme_slot == NO_NVME || self.tier.is_reading(key) || self.tier.is_writing(key) {
            return false;
        }
        let Some(store) = &mut self.tier.store else { return false };
        store.free(value.nvme_slot);
        self.change_entry(place, &value, &EntryValue { nvme_slot: NO_NVME, ..value });
        true
    }

    /// Every chunk in the first `max_extents` NVMe extents that these lie in: for when extents shall change their class. Costs what they hold.
    pub fn nvme_neighbours(&self, keys: &[Key16], max_extents: usize) -> Vec<Key16> {
        let Some(store) = &self.tier.store else { return Vec::new() };
        let slots = keys.iter().filter_map(|key| self.index.find(*key)).map(|(_, value)| value.nvme_slot);
        let mut extents = BTreeSet::new();
        for extent in slots.filter_map(|slot| store.extent_of(slot)) {
            if extents.len() < max_extents {
                extents.insert(extent);
            }
        }
        let named = extents.into_iter().flat_map(|extent| store.places_of(extent)).filter_map(|(slot, place)| {
            // An entry that left stays noted until its slot is used again.
            let value = self.index.entry(place).copy();
            (value.state == LIVE && value.nvme_slot == slot).then(|| key_of(&value))
        });
        named.collect()
    }

    /// How long an I/O may take from now on; zero is refused by the options and ignored here.
    pub fn set_nvme_deadline(&mut self, deadline: Duration) {
        if let Some(store) = self.tier.store.as_mut().filter(|_| !deadline.is_zero()) {
            store.set_deadline(deadline);
        }
    }

    /// How the store's I/O is done now, and why not in each better way; None without one.
    pub fn nvme_rung(&self) -> Option<(&'static str, Vec<Refusal>)> {
        self.tier.store.as_ref().map(|store| (store.rung().name(), store.refusals()))
    }

    /// The store's own figures; zeroes without one.
    pub fn nvme_stats(&self) -> StoreStats {
        self.tier.store.as_ref().map(NvmeStore::stats).unwrap_or_default()
    }

    /// Everything that verification means: the bytes that arrived in a slot are the chunk that the entry names.
    fn verify(&self, read: &Read, stride: u64, value: &EntryValue, digest: &Digest) -> Result<(), Outcome> {
        let header = self.inspect(read.dram_slot, stride, value)?;
        if header.position != read.nvme_slot {
            return Err(Outcome::Misplaced);
        }
        if header.payload_checksum != *digest {
            return Err(Outcome::CorruptPayload);
        }
        Ok(())
    }

    /// The header of a slot, which is that of the chunk that the entry names.
    fn inspect(&self, slot: u32, stride: u64, value: &EntryValue) -> Result<SlotHeader, Outcome> {
        let mut page = [0; PAGE_BYTES as usize];
        self.arena.bytes().read(Arena::offset(slot), &mut page);
        let header = SlotHeader::decode(&page).map_err(|_| Outcome::CorruptHeader)?;
        let key = key_of(value);
        let told = self.tier.expected.told(key);
        let is_told = told.is_none_or(|(whole, fingerprint)| *whole == header.key && *fingerprint == header.fingerprint);
        if !is_told || key::derive(&header.key, &header.fingerprint) != key {
            return Err(Outcome::WrongKey);
        }
        if header.stride != stride || header.length != u64::from(value.length) {
            return Err(Outcome::CorruptHeader);
        }
        Ok(header)
    }

    /// Take what the store completed.
    pub(super) fn serve_tier(&mut self) {
        let Some(store) = &mut self.tier.store else { return };
        let backed_bytes = self.arena.faulted_bytes();
        if backed_bytes != self.tier.covered_bytes {
            self.tier.covered_bytes = backed_bytes;
            store.cover(self.arena.bytes().as_ptr(), backed_bytes as usize);
        }
        store.sync_if_due();
        let mut done = std::mem::take(&mut self.tier.completions);
        store.completions(&mut done);
        for completion in done.drain(..) {
            self.complete(completion);
        }
        self.tier.completions = done;
    }

    fn complete(&mut self, completion: Completion) {
        match completion {
            Completion::Read { token, result } => self.end_read(token, result),
            Completion::Written { token, result } => self.end_write(token, result.is_ok()),
            Completion::Quarantined { result, .. } => self.counters.io_errors += u64::from(result.is_err()),
            Completion::Scanned { slot, stride, header } => self.meet_scanned(slot, stride, &header),
            Completion::ScanFault { .. } => self.note_scan_fault(Outcome::CorruptHeader),
            Completion::ScanDone => self.end_scan(),
            Completion::Breaker { reason } => self.set_tier_state(TierState::Broken, reason.to_string()),
            Completion::Late { token } => self.note_late(token),
            Completion::BreakerClosed => {
                let state = if self.tier.scan_done { TierState::Active } else { TierState::Scanning };
                self.set_tier_state(state, String::new());
            }
        }
    }

    /// Nobody waits for a read that hangs; its slot stays READING until the device lets go of it.
    fn note_late(&mut self, token: u64) {
        let Some(read) = self.tier.reads.get_mut(&token).filter(|read| !read.late) else { return };
        read.late = true;
        let (key, class, since_ns) = (read.key, read.class, read.since_ns);
        self.tier.expected.forget(key);
        self.due.progress = true;
        let took_ns = clock::now_ns().saturating_sub(since_ns);
        self.emit(Event::Read { key, class, outcome: Outcome::Timeout, took_ns });
    }

    fn end_read(&mut self, token: u64, result: Result<Digest, IoFault>) {
        let Some(read) = self.tier.reads.remove(&token) else { return };
        self.tier.reading.remove(&read.key);
        if read.late {
            self.free_slot(read.dram_slot);
            return;
        }
        // Neither says anything about the chunk: it stays where it is.
        if matches!(result, Err(IoFault::Unavailable | IoFault::Memory)) {
            self.fail_read(&read, Outcome::IoError);
            return;
        }
        let stride = self.stride_of_class(read.class);
        let found = self.index.find(read.key).filter(|(_, value)| value.nvme_slot == read.nvme_slot);
        let Some((place, value)) = found else {
            self.fail_read(&read, Outcome::Gone);
            return;
        };
        self.counters.io_errors += u64::from(result.is_err());
        let verdict = result.map_err(|_| Outcome::IoError).and_then(|digest| self.verify(&read, stride, &value, &digest));
        match verdict {
            Ok(()) => {
                #[cfg(feature = "swap-chunks")]
                self.swap_with_in_hand(read.dram_slot, stride);
                self.publish_read(&read, place, &value);
            }
            Err(outcome) => {
                self.quarantine_nvme(place, &value, outcome);
                self.fail_read(&read, outcome);
            }
        }
    }

    /// Verified: the entry first, as it is what a successor goes by, then the slot's state.
    fn publish_read(&mut self, read: &Read, place: u64, value: &EntryValue) {
        self.tier.expected.forget(read.key);
        let stride = self.stride_of_class(read.class);
        let length = u64::from(value.length);
        self.counters.hop(Hop::NvmeToArena, length, stride - length);
        if value.dram_slot == NO_DRAM {
            self.change_entry(place, value, &EntryValue { dram_slot: read.dram_slot, ..*value });
            crate::crash::point("promoted");
            self.mark(read.dram_slot, SlotState::Valid, 0, read.class);
        } else {
            // Published by an engine meanwhile.
            self.free_slot(read.dram_slot);
        }
        let took_ns = clock::now_ns().saturating_sub(read.since_ns);
        self.emit(Event::Read { key: read.key, class: read.class, outcome: Outcome::Ok, took_ns });
    }

    fn fail_read(&mut self, read: &Read, outcome: Outcome) {
        self.tier.expected.forget(read.key);
        self.free_slot(read.dram_slot);
        self.due.progress = true;
        let took_ns = clock::now_ns().saturating_sub(read.since_ns);
        self.emit(Event::Read { key: read.key, class: read.class, outcome, took_ns });
    }

    fn quarantine_nvme(&mut self, place: u64, value: &EntryValue, outcome: Outcome) {
        let stride = self.stride_of_class(value.class);
        self.counters.quarantine(outcome);
        self.emit(Event::Quarantined { key: Some(key_of(value)), outcome, tier: TIER_NVME });
        self.change_entry(place, value, &EntryValue { nvme_slot: NO_NVME, ..*value });
        self.overwrite_header(value.nvme_slot, stride);
    }

    fn overwrite_header(&mut self, nvme_slot: u64, stride: u64) {
        let token = self.tier.token();
        if let Some(store) = &mut self.tier.store {
            store.submit_quarantine(token, nvme_slot, stride);
        }
    }

    fn end_write(&mut self, token: u64, done: bool) {
        let Some(write) = self.tier.writes.remove(&token) else { return };
        self.tier.writing.remove(&write.key);
        let outcome = if done { self.name_written(&write) } else { Outcome::IoError };
        if outcome == Outcome::Ok {
            let stride = self.stride_of_class(write.class);
            self.counters.hop(Hop::ArenaToNvme, write.length.into(), stride - u64::from(write.length));
        } else if let Some(store) = &mut self.tier.store {
            self.counters.io_errors += u64::from(!done);
            store.free(write.nvme_slot);
        }
        self.emit(Event::Written { key: write.key, class: write.class, outcome });
    }

    fn name_written(&mut self, write: &Write) -> Outcome {
        match self.index.find(write.key) {
            Some((place, value)) if value.dram_slot == write.dram_slot && value.nvme_slot == NO_NVME => {
                let new = EntryValue { nvme_slot: write.nvme_slot, generation: write.generation as u32, ..value };
                self.change_entry(place, &value, &new);
                Outcome::Ok
            }
            _ => Outcome::Gone,
        }
    }

    pub(super) fn set_tier_state(&mut self, state: TierState, reason: String) {
        self.tier.state = state;
        self.tier.reason = reason;
        self.index.header().nvme_state.store(state as u32, Ordering::Release);
        self.due.progress = true;
        self.emit(Event::NvmeState { state });
    }

    /// A header that the scan found. Its slot is in use from the store's view; here it is given a name or given back.
    fn meet_scanned(&mut self, slot: u64, stride: u64, header: &SlotHeader) {
        if self.tier.writes.values().any(|write| write.nvme_slot == slot) {
            return;
        }
        if header.generation > MAX_GENERATION {
            self.quarantine_scanned(slot, stride, Outcome::CorruptHeader);
            return;
        }
        self.index.header().generation.fetch_max(header.generation, Ordering::Relaxed);
        if header.position != slot {
            self.quarantine_scanned(slot, stride, Outcome::Misplaced);
            return;
        }
        let fits = header.stride == stride && stride_of(header.length) == Some(stride);
        match fits.then(|| self.intern_class(stride)).flatten() {
            Some(class) => self.name_scanned(slot, class, header),
            None => self.quarantine_scanned(slot, stride, Outcome::CorruptHeader),
        }
    }

    fn name_scanned(&mut self, slot: u64, class: u8, header: &SlotHeader) {
        let key = key::derive(&header.key, &header.fingerprint);
        let [a, b, c, d, ..] = header.fingerprint;
        let found = EntryValue {
            state: LIVE,
            class,
            key: [key.0, key.1],
            dram_slot: NO_DRAM,
            length: header.length as u32,
            nvme_slot: slot,
            generation: header.generation as u32,
            namespace: u32::from_le_bytes([a, b, c, d]),
        };
        let named = match self.index.find(key) {
            None => self.insert_entry(&found),
            Some((_, old)) if old.nvme_slot == slot => return,
            // No two writes share a generation: one of them was copied there by somebody else.
            Some((_, old)) if old.nvme_slot != NO_NVME && old.generation == found.generation => {
                self.quarantine_scanned(slot, header.stride, Outcome::Misplaced);
                return;
            }
            Some((place, old)) => self.settle_double(place, &old, &found),
        };
        if named {
            self.tier.scanned.0 += 1;
            self.due.progress = true;
            self.emit(Event::Scanned { key, class, generation: header.generation });
        } else if let Some(store) = &mut self.tier.store {
            store.free(slot);
        }
    }

    /// Two copies of one key: the higher generation is the later write; the other slot is free. True when `found` is the one that stays.
    fn settle_double(&mut self, place: u64, old: &EntryValue, found: &EntryValue) -> bool {
        if old.class != found.class || old.length != found.length || self.tier.is_reading(key_of(old)) {
            return false;
        }
        if old.nvme_slot != NO_NVME {
            if old.generation >= found.generation {
                return false;
            }
            if let Some(store) = &mut self.tier.store {
                store.free(old.nvme_slot);
            }
        }
        self.change_entry(place, old, &EntryValue { nvme_slot: found.nvme_slot, generation: found.generation, ..*old });
        true
    }

    fn quarantine_scanned(&mut self, slot: u64, stride: u64, outcome: Outcome) {
        self.note_scan_fault(outcome);
        self.overwrite_header(slot, stride);
    }

    fn note_scan_fault(&mut self, outcome: Outcome) {
        self.tier.scanned.1 += 1;
        self.counters.quarantine(outcome);
        self.emit(Event::Quarantined { key: None, outcome, tier: TIER_NVME });
    }

    fn end_scan(&mut self) {
        self.tier.scan_done = true;
        self.index.header().scan_done.store(1, Ordering::Release);
        let (chunks, faults) = self.tier.scanned;
        self.emit(Event::ScanDone { chunks, faults });
        if self.tier.state == TierState::Scanning {
            self.set_tier_state(TierState::Active, String::new());
        }
    }

    /// Tests only: exchange a verified chunk's payload with the one verified before it; the first keeps its own. Not two chunks of one prompt with
    /// each other: attention does not see in which order it meets keys and values whose position is rotated into them, so an answer would stay.
    #[cfg(feature = "swap-chunks")]
    fn swap_with_in_hand(&mut self, slot: u32, stride: u64) {
        let at = Arena::offset(slot) + PAGE_BYTES as usize;
        let mut body = vec![0; (stride - PAGE_BYTES) as usize];
        self.arena.bytes().read(at, &mut body);
        if self.tier.in_hand.len() == body.len() {
            self.arena.bytes().write(at, &self.tier.in_hand);
        }
        self.tier.in_hand = body;
    }
}
