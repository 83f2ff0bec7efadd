//! The sidecar's side of the pod: owns the index, the arena's slots and the NVMe slots, serves the engines' rings, decides nothing.
//!
//! One thread owns a [`Plane`] and calls [`Plane::poll`] in a loop. All truth is in shared memory; what is kept here is a copy that
//! [`Plane::open`] rebuilds, so a plane may be killed at any instruction. The order of stores in each step is what makes that true:
//! publish: header, entry, slot VALID, tail; evict: entry, slot RECYCLING, epoch; promote: slot READING, read, verify, entry, slot VALID.
//! In each case the entry is the commit point, and `open` brings the slot's state in line with it.

mod contain;
mod displace;
mod engine;
mod engines;
pub mod event;
mod expected;
mod leases;
mod open;
mod poll;
mod recall;
mod recycle;
mod ring_ops;
mod stats;
mod strangers;
mod tier;
mod vacate;

use std::collections::{HashMap, HashSet, VecDeque};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::arena::{Arena, Slot, SlotState};
use crate::clock;
use crate::guard::GuardedRange;
use crate::index::Index;
use crate::key::Key16;
use crate::layout::*;
use crate::seqlock::{EntryValue, LIVE};

use engine::Engine;
pub use event::{Event, OUTCOMES, Outcome, TIER_DRAM, TIER_NVME};
pub use open::{NvmeReport, OpenOptions, Report};
use recycle::Recycling;
pub use stats::{EngineStats, Hop, InvalidOp, Stats, TierStats};
use strangers::Strangers;
use tier::Tier;
pub use tier::TierState;

/// No disk sees so many writes. A header that says more is damage, and counting on from it would leave the range.
pub(crate) const MAX_GENERATION: u64 = 1 << 62;

/// The sidecar's side. Dropping it leaves shared memory for the successor.
#[derive(Debug)]
pub struct Plane {
    options: OpenOptions,
    run: PathBuf,
    /// Held for the plane's life: there is one writer.
    _writer_lock: File,
    doorbell: OwnedFd,
    /// Before the arena, as fields drop in this order: its workers read into and write from the arena's mapping.
    tier: Tier,
    index: Index,
    arena_guard: GuardedRange,
    arena: Arena,
    incarnation: u64,
    strides: Vec<u64>,
    engines: Vec<Option<Engine>>,
    strangers: Strangers,
    events: VecDeque<Event>,
    /// How many of the events, at the front, tell what survived; they do not count as a backlog.
    adopted_left: usize,
    /// Every slot that holds or held a chunk until it is free again.
    resident: HashMap<u32, Resident>,
    recycling: Recycling,
    quarantined: HashSet<u32>,
    gauges: Gauges,
    counters: stats::Counters,
    due: poll::Due,
    report: Report,
    withdrawn: bool,
}

/// The chunk in a slot.
#[derive(Clone, Copy, Debug)]
struct Resident {
    /// Payload bytes.
    length: u32,
    /// Where the index names it; an index of 2^32 entries would be 256 GiB.
    place: u32,
}

/// What the entries hold, kept in step with them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Gauges {
    dram_chunks: u64,
    dram_bytes: u64,
    nvme_chunks: u64,
    nvme_bytes: u64,
    /// Entries by class.
    entries: ByClass,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ByClass([u64; MAX_CLASSES]);

impl Default for ByClass {
    fn default() -> Self {
        Self([0; MAX_CLASSES])
    }
}

impl Gauges {
    fn add(&mut self, value: &EntryValue) {
        self.entries.0[value.class as usize] += 1;
        if value.dram_slot != NO_DRAM {
            self.dram_chunks += 1;
            self.dram_bytes += u64::from(value.length);
        }
        if value.nvme_slot != NO_NVME {
            self.nvme_chunks += 1;
            self.nvme_bytes += u64::from(value.length);
        }
    }

    fn take(&mut self, value: &EntryValue) {
        self.entries.0[value.class as usize] -= 1;
        if value.dram_slot != NO_DRAM {
            self.dram_chunks -= 1;
            self.dram_bytes -= u64::from(value.length);
        }
        if value.nvme_slot != NO_NVME {
            self.nvme_chunks -= 1;
            self.nvme_bytes -= u64::from(value.length);
        }
    }
}

fn key_of(value: &EntryValue) -> Key16 {
    Key16(value.key[0], value.key[1])
}

fn tiers_of(value: &EntryValue) -> u8 {
    let dram = if value.dram_slot != NO_DRAM { TIER_DRAM } else { 0 };
    let nvme = if value.nvme_slot != NO_NVME { TIER_NVME } else { 0 };
    dram | nvme
}

impl Plane {
    /// What open found.
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// (class, stride) of every class known.
    pub fn classes(&self) -> Vec<(u8, u64)> {
        self.strides.iter().enumerate().filter(|(_, stride)| **stride > 0).map(|(class, stride)| (class as u8, *stride)).collect()
    }

    /// (free, total) DRAM slots of a class, those of extents it could still draw included.
    pub fn dram_slots(&self, class: u8) -> (u64, u64) {
        match self.stride_of_class(class) {
            0 => (0, 0),
            stride => self.arena.slots(class, stride),
        }
    }

    /// Slots of a class that are not free, those in extents being vacated included.
    pub fn dram_slots_taken(&self, class: u8) -> u64 {
        match self.stride_of_class(class) {
            0 => 0,
            stride => self.arena.slots_taken(class, stride),
        }
    }

    /// Tier bits per key; 0: unknown.
    pub fn tiers(&self, keys: &[Key16]) -> Vec<u8> {
        keys.iter().map(|key| self.index.find(*key).map_or(0, |(_, value)| tiers_of(&value))).collect()
    }

    /// DRAM slots that a class gets once the extents being vacated for it are empty.
    pub fn dram_slots_to_come(&self, class: u8) -> u64 {
        match self.stride_of_class(class) {
            0 => 0,
            stride => self.arena.slots_to_come(class, stride),
        }
    }

    /// Lease up to `count` free slots to an engine; the number granted.
    pub fn grant(&mut self, tag: u8, group: usize, count: u64) -> u64 {
        let Some((found, idle)) = self.grant_terms(tag, group) else { return 0 };
        let mut granted = 0;
        while granted < count.min(GRANT_SLOTS as u64 - idle) && self.grant_one(tag, group, found) {
            granted += 1;
        }
        granted
    }

    /// (tag, group, class, slots granted and not taken yet, slots of the class that the engine leases in all) of every group that can be granted to
    /// now: one with bytes, of an engine that is ready, lives and was not refused.
    pub fn lease_accounts(&self) -> Vec<(u8, usize, u8, u64, u64)> {
        let groups = self.engines.iter().flatten().flat_map(|engine| (0..engine.n_groups).map(|group| (engine.tag, group)));
        let account = |(tag, group)| {
            let (found, idle) = self.grant_terms(tag, group)?;
            let leased = self.engines[tag as usize].as_ref()?.leases.count(found.class);
            Some((tag, group, found.class, idle, leased))
        };
        groups.filter_map(account).collect()
    }

    /// What can be granted to a group, and how much of it waits there.
    fn grant_terms(&self, tag: u8, group: usize) -> Option<(engine::Group, u64)> {
        let engine = self.engines.get(tag as usize)?.as_ref()?;
        let found = engine.groups.get(group).copied().flatten()?;
        let usable = engine.ready && !engine.refused && engine.free_since.is_none() && !engine.is_poisoned() && !self.withdrawn;
        // A ring whose head and tail cannot both be right is full, not empty.
        let is_sound = engine.grant_heads[group].wrapping_sub(engine.grant_tail(group).taken) <= GRANT_SLOTS as u64;
        (usable && is_sound).then(|| (found, engine.idle_grants(group)))
    }

    /// GRANTING first, LEASED last: a successor that finds GRANTING asks the ring whether the engine can have seen the slot.
    fn grant_one(&mut self, tag: u8, group: usize, found: engine::Group) -> bool {
        let Some(slot) = self.arena.take(&self.index, found.class, found.stride) else { return false };
        self.mark(slot, SlotState::Granting, tag, found.class);
        crate::crash::point("granting");
        let Some(engine) = self.engines[tag as usize].as_mut() else { return false };
        engine.push_grant(group, slot);
        engine.leases.insert(slot, found.class);
        crate::crash::point("granted");
        self.mark(slot, SlotState::Leased, tag, found.class);
        true
    }

    fn stride_of_class(&self, class: u8) -> u64 {
        self.strides.get(class as usize).copied().unwrap_or(0)
    }

    /// The class of a stride, made if it is new. None: the table is full or the stride impossible.
    fn intern_class(&mut self, stride: u64) -> Option<u8> {
        if !stride_is_valid(stride) {
            return None;
        }
        let known = self.strides.iter().position(|seen| *seen == stride);
        let class = known.or_else(|| self.strides.iter().position(|seen| *seen == 0))?;
        if known.is_none() {
            self.strides[class] = stride;
            self.index.classes()[class].stride_bytes.store(stride, Ordering::Release);
        }
        Some(class as u8)
    }

    fn mark(&self, slot: u32, state: SlotState, tag: u8, class: u8) {
        let since = clock::now_seconds();
        Slot { state, tag, class, since, incarnation: self.incarnation }.store(self.index.slot(slot));
    }

    fn class_of_slot(&self, slot: u32) -> u8 {
        Slot::load(self.index.slot(slot)).class
    }

    /// A slot nobody can hold any more.
    fn free_slot(&mut self, slot: u32) {
        let class = self.class_of_slot(slot);
        self.mark(slot, SlotState::Free, 0, class);
        self.resident.remove(&slot);
        self.arena.put_back(&self.index, slot);
        self.due.freed[class as usize] = true;
    }

    /// Insert an entry for a key that has none; false when its window is full.
    fn insert_entry(&mut self, value: &EntryValue) -> bool {
        match self.index.insert(value) {
            Ok(place) => {
                self.index.touch(place);
                self.gauges.add(value);
                self.note_place(value, place);
                true
            }
            Err(_) => {
                self.counters.index_full += 1;
                false
            }
        }
    }

    /// Replace an entry; one that names no slot any more goes.
    fn change_entry(&mut self, place: u64, old: &EntryValue, new: &EntryValue) {
        self.gauges.take(old);
        if new.dram_slot == NO_DRAM && new.nvme_slot == NO_NVME {
            self.index.remove(place);
        } else {
            self.index.update(place, new);
            self.gauges.add(new);
            self.note_place(new, place);
        }
        self.due.progress = true;
    }

    fn note_place(&mut self, value: &EntryValue, place: u64) {
        self.note_resident(value, place);
        self.tier.note_place(value.nvme_slot, place);
    }

    fn note_resident(&mut self, value: &EntryValue, place: u64) {
        if value.dram_slot != NO_DRAM {
            let place = u32::try_from(place).unwrap_or(u32::MAX);
            self.resident.insert(value.dram_slot, Resident { length: value.length, place });
        }
    }

    fn next_generation(&self) -> u64 {
        // Never near its end: what a device's header says above [`MAX_GENERATION`] is damage.
        self.index.header().generation.fetch_add(1, Ordering::Relaxed).wrapping_add(1)
    }

    fn emit(&mut self, event: Event) {
        self.events.push_back(event);
    }

    /// Wait for writes in flight and make them durable; the number that did not end in time.
    pub fn flush(&mut self, deadline: Duration) -> usize {
        let end = clock::now_ns() + deadline.as_nanos() as u64;
        while self.tier.writes_in_flight() > 0 && clock::now_ns() < end {
            self.tier.wait(Duration::from_millis(20));
            self.pass();
        }
        self.tier.sync(Duration::from_nanos(end.saturating_sub(clock::now_ns())));
        self.tier.writes_in_flight()
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        // Before the arena is unmapped: its threads read and write there.
        self.tier.store = None;
        // Descriptors of living engines stay open: in a test, or any process that hosts both sides, closing one would end the engine's own locks.
        let engines = self.engines.drain(..).flatten().map(|engine| engine.ctl);
        for ctl in engines.chain(self.strangers.take_all()) {
            if ctl.is_held() {
                ctl.leak();
            }
        }
    }
}

/// An entry that names a chunk in DRAM only.
fn dram_entry(key: Key16, class: u8, slot: u32, length: u32, generation: u64, namespace: u32) -> EntryValue {
    EntryValue {
        state: LIVE,
        class,
        key: [key.0, key.1],
        dram_slot: slot,
        length,
        nvme_slot: NO_NVME,
        generation: generation as u32,
        namespace,
    }
}
