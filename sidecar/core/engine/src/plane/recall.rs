//! The way back of leases: what an engine was granted and has not taken is taken back, if need be under its eyes. The protocol is [`crate::grants`]'.

use std::collections::HashSet;

use crate::arena::{Slot, SlotState, recall_word};
use crate::clock;
use crate::grants::Tail;

use super::Plane;

/// An engine that takes leases just then is no idle one: not more tries than that.
const TRIES: usize = 3;

impl Plane {
    /// Take back at most `count` slots of a group that its engine has not taken, the oldest first; how many are free again.
    pub fn recall_leases(&mut self, tag: u8, group: usize, count: u64) -> u64 {
        (0..TRIES).find_map(|_| self.try_recall(tag, group, count)).unwrap_or(0)
    }

    /// None: the engine was there first.
    fn try_recall(&mut self, tag: u8, group: usize, count: u64) -> Option<u64> {
        let Some(engine) = self
            .engines
            .get(tag as usize)
            .and_then(Option::as_ref)
            .filter(|engine| !engine.faulted && !engine.is_poisoned() && engine.can_be_recalled_from())
        else {
            return Some(0);
        };
        let Some(found) = engine.groups.get(group).copied().flatten() else { return Some(0) };
        let tail = engine.grant_tail(group);
        let count = engine.idle_grants(group).min(count);
        if count == 0 {
            return Some(0);
        }
        // What the ring says is the engine's word: only slots that it leases come back, each once, as if it had released them.
        let leased = |slot: &u32| engine.leases.contains(*slot) && self.class_of_slot(*slot) == found.class;
        let slots: HashSet<u32> = engine.granted(group, tail, count).into_iter().filter(leased).collect();
        self.mark_recalling(&slots, tag, found.class, group, tail);
        crate::crash::point("recalling");
        let recalled = self.engines[tag as usize].as_mut().is_some_and(|engine| engine.recall_grants(group, tail, count));
        crate::crash::point("recalled");
        for slot in &slots {
            if recalled {
                self.end_lease(tag, *slot);
                self.free_slot(*slot);
            } else {
                self.mark(*slot, SlotState::Leased, tag, found.class);
            }
        }
        recalled.then_some(slots.len() as u64)
    }

    /// With how many recalls the ring showed before: one more tells a successor that these came back.
    fn mark_recalling(&self, slots: &HashSet<u32>, tag: u8, class: u8, group: usize, tail: Tail) {
        let since = clock::now_seconds();
        for slot in slots {
            let incarnation = recall_word(group, tail.recalls);
            Slot { state: SlotState::Recalling, tag, class, since, incarnation }.store(self.index.slot(*slot));
        }
    }
}
