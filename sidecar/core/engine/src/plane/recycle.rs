//! Eviction from DRAM: unlink now, free when no engine can hold the slot. The protocol is [`crate::epoch`]'s.

use std::collections::HashSet;
use std::sync::atomic::Ordering;

use crate::arena::{Slot, SlotState};
use crate::clock;
use crate::epoch;
use crate::key::Key16;
use crate::layout::NO_DRAM;
use crate::seqlock::EntryValue;

use super::Plane;

/// A step takes milliseconds. Whoever stands still in one for so long, stopped by a debugger or in a frozen cgroup, keeps no slots from the others.
const STEP_MAX_NS: u64 = 5_000_000_000;

impl Plane {
    /// Unlink chunks from DRAM; one answer per key. Refused: unknown, not in DRAM, being written to NVMe, and with `spare_pinned` what a
    /// ticket holds now: its slot could not be used yet, and the request that holds it is about to load it. A ticket that is taken
    /// meanwhile only delays the recycling.
    pub fn evict_dram(&mut self, keys: &[Key16], spare_pinned: bool) -> Vec<bool> {
        let spared = if spare_pinned { self.pinned_slots() } else { HashSet::new() };
        let accepted = keys.iter().map(|key| self.unlink_dram(*key, &spared)).collect();
        self.seal_unlinked();
        accepted
    }

    fn unlink_dram(&mut self, key: Key16, spared: &HashSet<u32>) -> bool {
        match self.index.find(key) {
            Some((place, value)) if value.dram_slot != NO_DRAM && !self.tier.is_writing(key) && !spared.contains(&value.dram_slot) => {
                self.unlink_entry(place, &value);
                true
            }
            _ => false,
        }
    }

    /// The entry first: a VALID slot that no entry names is recycled by a successor, an entry that names a recycled slot would be wrong bytes.
    pub(super) fn unlink_entry(&mut self, place: u64, value: &EntryValue) {
        self.change_entry(place, value, &EntryValue { dram_slot: NO_DRAM, ..*value });
        crate::crash::point("unlinked");
        self.mark(value.dram_slot, SlotState::Recycling, 0, value.class);
        self.unlinked.push(value.dram_slot);
    }

    /// Put everything unlinked so far under one new epoch.
    pub(super) fn seal_unlinked(&mut self) {
        if self.unlinked.is_empty() {
            return;
        }
        let epoch = epoch::advance(&self.index.header().global_epoch);
        self.waiting.extend(self.unlinked.drain(..).map(|slot| (slot, epoch)));
    }

    /// Free what every engine has passed and no ticket holds.
    pub(super) fn recycle(&mut self) {
        self.seal_unlinked();
        while let Some((slot, epoch)) = self.waiting.front().copied() {
            if !self.all_passed(epoch) && !self.expel_late(epoch) {
                break;
            }
            self.waiting.pop_front();
            self.quiesced.push(slot);
        }
        if self.quiesced.is_empty() {
            return;
        }
        let pinned = self.pinned_slots();
        for slot in std::mem::take(&mut self.quiesced) {
            match pinned.contains(&slot) {
                true => self.quiesced.push(slot),
                false => self.free_slot(slot),
            }
        }
    }

    /// A refused or dying engine counts like any other until its processes are gone; one that truncated its control file cannot be asked.
    fn all_passed(&self, epoch: u64) -> bool {
        let mut asked = self.engines.iter().flatten().filter(|engine| !engine.is_poisoned());
        asked.all(|engine| engine.has_passed(epoch))
    }

    /// True when slots have waited for this epoch for so long that whoever is still in an older step was put out of it.
    fn expel_late(&mut self, epoch: u64) -> bool {
        let now_ns = clock::now_ns();
        let since_ns = match self.blocked {
            Some((blocked, since_ns)) if blocked == epoch => since_ns,
            _ => {
                self.blocked = Some((epoch, now_ns));
                return false;
            }
        };
        if now_ns.saturating_sub(since_ns) < STEP_MAX_NS {
            return false;
        }
        let mut late = self.engines.iter().flatten().filter(|engine| !engine.is_poisoned() && !engine.has_passed(epoch));
        if !late.all(|engine| engine.can_be_expelled()) {
            return false;
        }
        let global = self.index.header().global_epoch.load(Ordering::Relaxed);
        for engine in self.engines.iter_mut().flatten().filter(|engine| !engine.has_passed(epoch)) {
            engine.expel(global);
            self.counters.steps_expelled += 1;
        }
        true
    }

    pub(super) fn pinned_slots(&self) -> HashSet<u32> {
        let mut pinned = HashSet::new();
        for engine in self.engines.iter().flatten().filter(|engine| !engine.is_poisoned()) {
            engine.pinned(&mut pinned);
        }
        pinned
    }

    /// Slots into which a dead daemon's reads can no longer land are free again.
    pub(super) fn end_quarantine(&mut self) {
        let now = clock::now_seconds();
        let bound = self.options.foreign_read_quarantine.as_secs_f64().ceil() as u32;
        let over = |slot: &u32| now.saturating_sub(Slot::load(self.index.slot(*slot)).since) >= bound;
        let done: Vec<u32> = self.quarantined.iter().copied().filter(over).collect();
        for slot in done {
            self.quarantined.remove(&slot);
            self.free_slot(slot);
        }
    }
}
