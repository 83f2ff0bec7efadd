//! Eviction from DRAM: unlink now, free when no engine can hold the slot. The protocol is [`crate::epoch`]'s.

use std::collections::{HashSet, VecDeque};
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

/// Slots on their way from an entry that named them to the free ones. Knows no engine: it is told who has passed and what is pinned.
#[derive(Debug, Default)]
pub(super) struct Recycling {
    /// Unlinked in this batch, not yet under an epoch.
    unlinked: Vec<u32>,
    /// Under an epoch that not every engine has passed.
    waiting: VecDeque<(u32, u64)>,
    /// The epoch that the first of these waits for, and since when in nanoseconds.
    blocked: Option<(u64, u64)>,
    /// Passed; only a ticket can still hold them.
    quiesced: Vec<u32>,
}

impl Recycling {
    /// No entry names a slot any more.
    pub fn unlink(&mut self, slot: u32) {
        self.unlinked.push(slot);
    }

    /// Put everything unlinked so far under one new epoch, if there is any.
    pub fn seal(&mut self, advance: impl FnOnce() -> u64) {
        if !self.unlinked.is_empty() {
            let epoch = advance();
            self.waiting.extend(self.unlinked.drain(..).map(|slot| (slot, epoch)));
        }
    }

    /// The epoch that every engine must pass next.
    pub fn next_epoch(&self) -> Option<u64> {
        self.waiting.front().map(|(_, epoch)| *epoch)
    }

    /// Every engine has passed the first one's epoch.
    pub fn pass(&mut self) {
        self.quiesced.extend(self.waiting.pop_front().map(|(slot, _)| slot));
    }

    /// True when slots have waited for this epoch for longer than a step may take.
    pub fn is_late(&mut self, epoch: u64, now_ns: u64) -> bool {
        match self.blocked {
            Some((blocked, since_ns)) if blocked == epoch => now_ns.saturating_sub(since_ns) >= STEP_MAX_NS,
            _ => {
                self.blocked = Some((epoch, now_ns));
                false
            }
        }
    }

    /// What only a ticket can still hold.
    pub fn has_quiesced(&self) -> bool {
        !self.quiesced.is_empty()
    }

    /// The slots that nobody can hold any more; pinned ones wait on.
    pub fn take_free(&mut self, pinned: &HashSet<u32>) -> Vec<u32> {
        let (held, free) = std::mem::take(&mut self.quiesced).into_iter().partition(|slot| pinned.contains(slot));
        self.quiesced = held;
        free
    }

    /// Slots that are not free yet.
    pub fn len(&self) -> usize {
        self.waiting.len() + self.quiesced.len()
    }
}

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
        self.recycling.unlink(value.dram_slot);
    }

    /// Put everything unlinked so far under one new epoch.
    pub(super) fn seal_unlinked(&mut self) {
        self.recycling.seal(|| epoch::advance(&self.index.header().global_epoch));
    }

    /// Free what every engine has passed and no ticket holds.
    pub(super) fn recycle(&mut self) {
        self.seal_unlinked();
        while let Some(epoch) = self.recycling.next_epoch() {
            if !self.all_passed(epoch) && !self.expel_late(epoch) {
                break;
            }
            self.recycling.pass();
        }
        if self.recycling.has_quiesced() {
            let pinned = self.pinned_slots();
            for slot in self.recycling.take_free(&pinned) {
                self.due.evicted[self.class_of_slot(slot) as usize] += 1;
                self.free_slot(slot);
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
        if !self.recycling.is_late(epoch, clock::now_ns()) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_free_once_its_epoch_is_passed_and_no_ticket_holds_it() {
        let mut recycling = Recycling::default();
        recycling.seal(|| unreachable!("there is nothing to seal"));
        (1..=2).for_each(|slot| recycling.unlink(slot));
        recycling.seal(|| 7);
        recycling.unlink(3);
        recycling.seal(|| 8);
        assert_eq!((recycling.next_epoch(), recycling.len(), recycling.has_quiesced()), (Some(7), 3, false));
        (0..2).for_each(|_| recycling.pass());
        assert_eq!(recycling.next_epoch(), Some(8));
        assert_eq!(recycling.take_free(&HashSet::from([2, 9])), [1]);
        assert_eq!((recycling.take_free(&HashSet::new()), recycling.len()), (vec![2], 1));
    }

    #[test]
    fn an_epoch_is_late_by_its_own_clock() {
        let mut recycling = Recycling::default();
        assert!(!recycling.is_late(7, 100) && !recycling.is_late(7, 100 + STEP_MAX_NS - 1));
        assert!(recycling.is_late(7, 100 + STEP_MAX_NS));
        assert!(!recycling.is_late(8, 100 + STEP_MAX_NS), "the next one's time begins when it is the first");
    }
}
