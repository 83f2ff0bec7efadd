//! Which slots are free, by extent and class; in memory only, rebuilt by claims or by the scan.

use std::collections::{BTreeMap, BTreeSet};

use super::format::Geometry;
use crate::layout::PAGE_BYTES;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Slot {
    Free,
    Used,
    /// Not scanned yet.
    Unknown,
}

/// Nobody said where. An index of so many entries would be 256 GiB.
const NO_PLACE: u32 = u32::MAX;

#[derive(Clone, Debug, Default)]
struct Extent {
    stride_pages: u32,
    slots: Vec<Slot>,
    /// Where the owner's index names each; 4 bytes a slot spare it a walk of the whole index.
    places: Vec<u32>,
    /// Free ones, the next to hand out last.
    free: Vec<u32>,
    used: usize,
    unknown: usize,
    /// The device's table names a stride, so old headers may lie in it.
    was_formatted: bool,
}

/// An allocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allocated {
    /// Page number in the file.
    pub slot: u64,
    /// Its extent has changed class and must be formatted before the slot is written.
    pub format: Option<u64>,
}

/// The book of all slots.
#[derive(Debug)]
pub struct Extents {
    geometry: Geometry,
    extents: Vec<Extent>,
    /// Extents of a stride that have a free slot; the lowest is filled first, so that others run empty.
    with_free: BTreeMap<u32, BTreeSet<u64>>,
    /// Extents of a stride that have an unscanned slot.
    with_unknown: BTreeMap<u32, BTreeSet<u64>>,
    /// Extents of no class.
    unclassed: BTreeSet<u64>,
    /// Extents of a class with neither used nor unknown slots.
    empty: BTreeSet<u64>,
    used_slots: u64,
    unknown_slots: u64,
}

impl Extents {
    /// From the strides that the device's table names; every slot is free.
    pub fn new(geometry: Geometry, strides: &[u32]) -> Self {
        let mut book = Self {
            geometry,
            extents: vec![Extent::default(); geometry.extent_count as usize],
            with_free: BTreeMap::new(),
            with_unknown: BTreeMap::new(),
            unclassed: (0..geometry.extent_count).collect(),
            empty: BTreeSet::new(),
            used_slots: 0,
            unknown_slots: 0,
        };
        for extent in 0..geometry.extent_count {
            let stride_pages = strides.get(extent as usize).copied().unwrap_or(0);
            if book.capacity(extent, stride_pages) > 0 {
                book.classify(extent, stride_pages);
                book.extents[extent as usize].was_formatted = true;
            }
        }
        book
    }

    /// Say that an extent's place in the device's table was unreadable: old headers may lie in it.
    pub fn distrust(&mut self, extent: u64) {
        self.extents[extent as usize].was_formatted = true;
    }

    /// True when the extent must be zeroed before it is used under another stride.
    pub fn was_formatted(&self, extent: u64) -> bool {
        self.extents[extent as usize].was_formatted
    }

    /// The device's table now names the extent's stride.
    pub fn formatted(&mut self, extent: u64) {
        self.extents[extent as usize].was_formatted = true;
    }

    /// Stride of an extent in pages; 0: none.
    pub fn stride_pages(&self, extent: u64) -> u32 {
        self.extents[extent as usize].stride_pages
    }

    /// A free slot, if need be of an extent that no class or no chunk uses, and only then one that was not scanned.
    pub fn alloc(&mut self, stride_bytes: u64) -> Option<Allocated> {
        let stride_pages = u32::try_from(stride_bytes / PAGE_BYTES).ok()?;
        if let Some(extent) = first(&self.with_free, stride_pages) {
            return Some(Allocated { slot: self.take_free(extent), format: None });
        }
        if let Some(extent) = self.drawable(stride_pages) {
            self.classify(extent, stride_pages);
            return Some(Allocated { slot: self.take_free(extent), format: Some(extent) });
        }
        let extent = first(&self.with_unknown, stride_pages)?;
        Some(Allocated { slot: self.take_unknown(extent), format: None })
    }

    /// Back to free; false when it was not in use.
    pub fn free(&mut self, slot: u64) -> bool {
        let Some((extent, at)) = self.find(slot) else { return false };
        if self.extents[extent as usize].slots[at] != Slot::Used {
            return false;
        }
        self.set(extent, at, Slot::Free);
        true
    }

    /// In use from now on; false when the slot is none of this stride or in use already.
    pub fn claim(&mut self, slot: u64, stride_bytes: u64) -> bool {
        let Some((extent, at)) = self.find(slot) else { return false };
        let entry = &self.extents[extent as usize];
        let fits = u64::from(entry.stride_pages) * PAGE_BYTES == stride_bytes && entry.slots[at] != Slot::Used;
        if fits {
            self.set(extent, at, Slot::Used);
        }
        fits
    }

    /// Everything that is not in use might be: the scan will tell.
    pub fn forget_free(&mut self) {
        for extent in 0..self.geometry.extent_count {
            for at in 0..self.extents[extent as usize].slots.len() {
                if self.extents[extent as usize].slots[at] == Slot::Free {
                    self.set(extent, at, Slot::Unknown);
                }
            }
        }
    }

    /// True while nobody told what the slot holds and nobody was given it.
    pub fn is_unknown(&self, slot: u64) -> bool {
        self.find(slot).is_some_and(|(extent, at)| self.extents[extent as usize].slots[at] == Slot::Unknown)
    }

    /// The scan's verdict on an unknown slot.
    pub fn settle(&mut self, slot: u64, in_use: bool) {
        if let Some((extent, at)) = self.find(slot) {
            self.set(extent, at, if in_use { Slot::Used } else { Slot::Free });
        }
    }

    /// Unknown slots of an extent, in order.
    pub fn unknown_of(&self, extent: u64) -> Vec<u64> {
        let entry = &self.extents[extent as usize];
        let unknown = entry.slots.iter().enumerate().filter(|(_, slot)| **slot == Slot::Unknown);
        unknown.map(|(at, _)| self.slot_at(extent, at as u32)).collect()
    }

    /// Slots not scanned yet.
    pub fn unknown_slots(&self) -> u64 {
        self.unknown_slots
    }

    /// Slots in use.
    pub fn used_slots(&self) -> u64 {
        self.used_slots
    }

    /// Stride in bytes of the extent that a slot lies in.
    pub fn stride_of_slot(&self, slot: u64) -> Option<u64> {
        self.find(slot).map(|(extent, _)| u64::from(self.stride_pages(extent)) * PAGE_BYTES)
    }

    /// Remember at which place the owner's index names a slot.
    pub fn note_place(&mut self, slot: u64, place: u64) {
        if let Some((extent, at)) = self.find(slot) {
            self.extents[extent as usize].places[at] = u32::try_from(place).unwrap_or(NO_PLACE);
        }
    }

    /// (slot, place noted for it) of an extent's slots in use.
    pub fn places_of(&self, extent: u64) -> impl Iterator<Item = (u64, u64)> {
        let entry = &self.extents[extent as usize];
        let noted = entry.places.iter().zip(&entry.slots).enumerate();
        let used = noted.filter(|(_, (place, slot))| **place != NO_PLACE && **slot == Slot::Used);
        used.map(move |(at, (place, _))| (self.slot_at(extent, at as u32), u64::from(*place)))
    }

    /// The extent that a slot lies in.
    pub fn extent_of(&self, slot: u64) -> Option<u64> {
        let offset = slot.checked_mul(PAGE_BYTES)?.checked_sub(self.geometry.extents_offset)?;
        let extent = offset / crate::layout::EXTENT_BYTES;
        (extent < self.geometry.extent_count).then_some(extent)
    }

    /// (free, total) slots of a stride, those of extents that it could still draw included.
    pub fn usage(&self, stride_bytes: u64) -> (u64, u64) {
        let stride_pages = (stride_bytes / PAGE_BYTES) as u32;
        let mut usage = (0, 0);
        for (number, extent) in self.extents.iter().enumerate() {
            let number = number as u64;
            if extent.stride_pages == stride_pages {
                usage.0 += extent.free.len() as u64;
                usage.1 += extent.slots.len() as u64;
            } else if extent.stride_pages == 0 || self.empty.contains(&number) {
                let slots = self.capacity(number, stride_pages);
                usage = (usage.0 + slots, usage.1 + slots);
            }
        }
        usage
    }

    /// An extent that nobody uses and that holds at least one slot of the stride.
    fn drawable(&self, stride_pages: u32) -> Option<u64> {
        let fits = |extent: &&u64| self.capacity(**extent, stride_pages) > 0;
        self.unclassed.iter().find(fits).or_else(|| self.empty.iter().find(fits)).copied()
    }

    fn capacity(&self, extent: u64, stride_pages: u32) -> u64 {
        if stride_pages == 0 { 0 } else { self.geometry.extent_bytes(extent) / (u64::from(stride_pages) * PAGE_BYTES) }
    }

    fn classify(&mut self, extent: u64, stride_pages: u32) {
        self.unlist(extent);
        self.unclassed.remove(&extent);
        let count = self.capacity(extent, stride_pages) as usize;
        let entry = &mut self.extents[extent as usize];
        entry.stride_pages = stride_pages;
        entry.slots = vec![Slot::Free; count];
        entry.places = vec![NO_PLACE; count];
        entry.free = (0..count as u32).rev().collect();
        self.list(extent);
    }

    fn take_free(&mut self, extent: u64) -> u64 {
        let at = *self.extents[extent as usize].free.last().expect("listed as having a free slot");
        self.set(extent, at as usize, Slot::Used);
        self.slot_at(extent, at)
    }

    fn take_unknown(&mut self, extent: u64) -> u64 {
        let slots = &self.extents[extent as usize].slots;
        // The scan works upwards: the last one is the farthest from being known.
        let at = slots.iter().rposition(|slot| *slot == Slot::Unknown).expect("listed as having an unknown slot");
        self.set(extent, at, Slot::Used);
        self.slot_at(extent, at as u32)
    }

    fn set(&mut self, extent: u64, at: usize, to: Slot) {
        self.unlist(extent);
        let entry = &mut self.extents[extent as usize];
        let from = std::mem::replace(&mut entry.slots[at], to);
        match from {
            Slot::Used => (entry.used, self.used_slots) = (entry.used - 1, self.used_slots - 1),
            Slot::Unknown => (entry.unknown, self.unknown_slots) = (entry.unknown - 1, self.unknown_slots - 1),
            // Nearly always the last one.
            Slot::Free => match entry.free.iter().rposition(|free| *free == at as u32) {
                Some(place) => drop(entry.free.swap_remove(place)),
                None => unreachable!("a free slot is in its extent's list"),
            },
        }
        match to {
            Slot::Used => (entry.used, self.used_slots) = (entry.used + 1, self.used_slots + 1),
            Slot::Unknown => (entry.unknown, self.unknown_slots) = (entry.unknown + 1, self.unknown_slots + 1),
            Slot::Free => entry.free.push(at as u32),
        }
        self.list(extent);
    }

    fn list(&mut self, extent: u64) {
        let entry = &self.extents[extent as usize];
        if entry.stride_pages == 0 {
            return;
        }
        if !entry.free.is_empty() {
            self.with_free.entry(entry.stride_pages).or_default().insert(extent);
        }
        if entry.unknown > 0 {
            self.with_unknown.entry(entry.stride_pages).or_default().insert(extent);
        }
        if entry.used == 0 && entry.unknown == 0 {
            self.empty.insert(extent);
        }
    }

    fn unlist(&mut self, extent: u64) {
        let stride_pages = self.extents[extent as usize].stride_pages;
        for lists in [&mut self.with_free, &mut self.with_unknown] {
            if let Some(list) = lists.get_mut(&stride_pages) {
                list.remove(&extent);
            }
        }
        self.empty.remove(&extent);
    }

    fn slot_at(&self, extent: u64, at: u32) -> u64 {
        let stride_pages = self.extents[extent as usize].stride_pages;
        self.geometry.extent_offset(extent) / PAGE_BYTES + u64::from(at) * u64::from(stride_pages)
    }

    fn find(&self, slot: u64) -> Option<(u64, usize)> {
        let extent = self.extent_of(slot)?;
        let entry = &self.extents[extent as usize];
        let page = slot - self.geometry.extent_offset(extent) / PAGE_BYTES;
        let stride_pages = u64::from(entry.stride_pages);
        let at = page.checked_div(stride_pages)?;
        (page.is_multiple_of(stride_pages) && at < entry.slots.len() as u64).then_some((extent, at as usize))
    }
}

fn first(lists: &BTreeMap<u32, BTreeSet<u64>>, stride_pages: u32) -> Option<u64> {
    lists.get(&stride_pages)?.first().copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    const MIB: u64 = 1 << 20;

    fn book(mib: u64) -> Extents {
        Extents::new(Geometry::of(mib * MIB).expect("large enough"), &[])
    }

    #[test]
    fn an_extent_serves_one_class_and_changes_it_only_when_empty() {
        let mut book = book(1 + 128);
        let one = book.alloc(MIB).expect("room");
        let other = book.alloc(2 * MIB).expect("room");
        assert_eq!((one.format, other.format), (Some(0), Some(1)));
        assert_eq!(book.alloc(4 * MIB), None);
        assert!(book.free(one.slot));
        assert_eq!(book.alloc(4 * MIB).expect("extent 0 is empty").format, Some(0));
        assert_eq!(book.usage(2 * MIB), (31, 32));
    }

    #[test]
    fn unknown_slots_are_the_last_resort_and_never_given_away_with_their_extent() {
        let mut book = Extents::new(Geometry::of((1 + 64) * MIB).expect("large enough"), &[256]);
        book.forget_free();
        assert_eq!((book.unknown_slots(), book.usage(MIB)), (64, (0, 64)));
        assert_eq!(book.alloc(2 * MIB), None);
        let known = book.unknown_of(0)[5];
        book.settle(known, false);
        assert_eq!(book.alloc(MIB).map(|found| found.slot), Some(known));
        let last_resort = book.alloc(MIB).expect("an unscanned slot").slot;
        assert!(!book.is_unknown(last_resort));
    }

    #[test]
    fn claims_are_checked() {
        let mut book = Extents::new(Geometry::of((1 + 64) * MIB).expect("large enough"), &[256]);
        assert!(!book.claim(256, 2 * MIB), "another stride");
        assert!(!book.claim(257, MIB), "between two slots");
        assert!(!book.claim(u64::MAX, MIB) && !book.claim(0, MIB), "outside");
        assert!(book.claim(256, MIB));
        assert!(!book.claim(256, MIB), "twice");
        assert!(book.free(256) && !book.free(256));
    }

    proptest! {
        /// Against a plain map: no slot is given twice, slots of different extents never overlap, and the counts add up.
        #[test]
        fn no_two_live_slots_overlap(steps in prop::collection::vec((any::<bool>(), 0_usize..3, any::<prop::sample::Index>()), 1..200)) {
            let mut book = book(1 + 200);
            let mut live: HashMap<u64, u64> = HashMap::new();
            for (is_alloc, class, pick) in steps {
                if is_alloc {
                    let stride = [64 << 10, 3 * MIB, 64 * MIB][class];
                    if let Some(found) = book.alloc(stride) {
                        let range = (found.slot, found.slot + stride / PAGE_BYTES);
                        prop_assert!(live.iter().all(|(slot, stride)| slot + stride / PAGE_BYTES <= range.0 || range.1 <= *slot));
                        prop_assert!(range.1 * PAGE_BYTES <= 201 * MIB);
                        live.insert(found.slot, stride);
                    }
                } else if !live.is_empty() {
                    let mut slots: Vec<u64> = live.keys().copied().collect();
                    slots.sort_unstable();
                    let slot = slots[pick.index(slots.len())];
                    prop_assert!(book.free(slot));
                    live.remove(&slot);
                }
                prop_assert_eq!(book.used_slots(), live.len() as u64);
            }
        }
    }
}
