//! An index that is full in a window gives up what was used longest ago there, instead of the chunk that was just stored.
//!
//! With two entries per chunk windows do not fill up. Chunks smaller than the index was sized for, or tiers beyond its greatest size, get there; refusing
//! would freeze the cache with room in both tiers.

use crate::arena::SlotState;
use crate::key::Key16;
use crate::layout::*;
use crate::seqlock::EntryValue;

use super::{Event, Outcome, Plane, TIER_DRAM, TIER_NVME, key_of};

impl Plane {
    /// As [`Plane::insert_entry`], at the cost of another chunk if need be. False: all of the window's are being read or written.
    pub(super) fn insert_or_displace(&mut self, value: &EntryValue) -> bool {
        if !self.index.has_place(key_of(value)) {
            self.displace_in_window(key_of(value));
        }
        self.insert_entry(value)
    }

    fn displace_in_window(&mut self, key: Key16) {
        let now = self.index.use_clock();
        let is_idle = |value: &EntryValue| !self.tier.is_reading(key_of(value)) && !self.tier.is_writing(key_of(value));
        let oldest = self.index.window(key).filter(|(_, value, _)| is_idle(value)).max_by_key(|(.., last_use)| now.wrapping_sub(*last_use));
        if let Some((place, value, _)) = oldest {
            self.displace(place, &value);
        }
    }

    /// Policy is told as of a chunk that was lost: once for each tier that it was in.
    fn displace(&mut self, place: u64, value: &EntryValue) {
        let key = key_of(value);
        // The entry first, as for any other eviction.
        self.change_entry(place, value, &EntryValue { dram_slot: NO_DRAM, nvme_slot: NO_NVME, ..*value });
        crate::crash::point("unlinked");
        if value.dram_slot != NO_DRAM {
            self.mark(value.dram_slot, SlotState::Recycling, 0, value.class);
            self.recycling.unlink(value.dram_slot);
            self.emit(Event::Quarantined { key: Some(key), outcome: Outcome::Gone, tier: TIER_DRAM });
        }
        if value.nvme_slot != NO_NVME {
            if let Some(store) = &mut self.tier.store {
                store.free(value.nvme_slot);
            }
            self.emit(Event::Quarantined { key: Some(key), outcome: Outcome::Gone, tier: TIER_NVME });
        }
        self.counters.index_displaced += 1;
    }
}
