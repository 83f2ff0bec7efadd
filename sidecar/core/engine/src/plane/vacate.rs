//! DRAM extents change classes: one is vacated for another class, chunk by chunk, and a class that nobody uses gives all it has back.
//!
//! Nothing of this outlives the process but its steps, each of which is an eviction, a recall, or a store into the extent table.

use crate::arena::{Slot, SlotState};
use crate::clock;
use crate::key::Key16;
use crate::layout::*;
use crate::seqlock::LIVE;

use super::{Plane, key_of};
use std::sync::atomic::Ordering;

/// An extent that is not empty by then stays with its class: an engine keeps a lease or a ticket there. Above the time after which a step is expelled.
const VACATE_MAX_NS: u64 = 10_000_000_000;

impl Plane {
    /// Begin to vacate at most `max_extents` DRAM extents that these chunks lie in for another class; how many. Their slots are handed out no
    /// more, and leases of theirs that no engine took come back. Their chunks must be evicted ([`Self::vacated_chunks`]) until they are empty.
    pub fn vacate_dram(&mut self, keys: &[Key16], class: u8, max_extents: usize) -> usize {
        if self.stride_of_class(class) == 0 {
            return 0;
        }
        let found: Vec<_> = keys.iter().filter_map(|key| self.index.find(*key)).map(|(_, value)| value).collect();
        let slots = found.iter().map(|value| value.dram_slot).filter(|slot| *slot != NO_DRAM);
        let begun = self.arena.vacate(&self.index, slots, max_extents, class, clock::now_ns());
        if begun > 0 {
            let donors: Vec<u8> = found.iter().map(|value| value.class).filter(|donor| *donor != class).collect();
            self.recall_class(&donors);
        }
        begun
    }

    /// Grants are handed out in order, so those that lie in an extent come back only with all the others. They are granted anew.
    fn recall_class(&mut self, classes: &[u8]) {
        let groups = self.engines.iter().flatten().flat_map(|engine| {
            let of_class = |group: &Option<super::engine::Group>| group.is_some_and(|found| classes.contains(&found.class));
            engine.groups.iter().enumerate().filter(move |(_, group)| of_class(group)).map(|(group, _)| (engine.tag, group))
        });
        for (tag, group) in groups.collect::<Vec<_>>() {
            self.recall_leases(tag, group, GRANT_SLOTS as u64);
        }
    }

    /// The chunks that lie in extents being vacated; empty when none is.
    pub fn vacated_chunks(&self) -> Vec<Key16> {
        let valid = |slot: &u32| Slot::load(self.index.slot(*slot)).state == SlotState::Valid;
        let named = |slot: u32| {
            let place = u64::from(self.resident.get(&slot)?.place);
            let value = (place < self.index.entry_count()).then(|| self.index.entry(place).copy())?;
            (value.state == LIVE && value.dram_slot == slot).then(|| key_of(&value))
        };
        self.arena.vacated_slots(&self.index).into_iter().filter(valid).filter_map(named).collect()
    }

    /// Every 200 ms: what takes too long to vacate stays, and classes that nobody uses end.
    pub(super) fn watch_extents(&mut self) {
        self.arena.end_vacating(clock::now_ns().saturating_sub(VACATE_MAX_NS));
        for class in 0..MAX_CLASSES as u8 {
            if self.stride_of_class(class) > 0 && !self.is_class_used(class) && self.arena.dissolve(&self.index, class) {
                // The extents first: one of a class without a stride is nobody's, but nobody may take another's extent for its own.
                crate::crash::point("class-dissolved");
                self.strides[class as usize] = 0;
                self.index.classes()[class as usize].stride_bytes.store(0, Ordering::Release);
            }
        }
    }

    /// True while an entry, in either tier, or an engine is of the class. What is read or written has an entry.
    fn is_class_used(&self, class: u8) -> bool {
        let mut groups = self.engines.iter().flatten().flat_map(|engine| engine.groups.iter().flatten());
        self.gauges.entries.0[class as usize] > 0 || groups.any(|group| group.class == class)
    }
}
