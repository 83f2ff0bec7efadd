//! The slots that one engine leases, and how many of them are of each class.

use std::collections::HashMap;

use crate::layout::MAX_CLASSES;

/// Slots from their grant until they are published, released or their engine is dead.
#[derive(Debug)]
pub struct Leases {
    class_of: HashMap<u32, u8>,
    counts: [u64; MAX_CLASSES],
}

impl Default for Leases {
    fn default() -> Self {
        Self { class_of: HashMap::new(), counts: [0; MAX_CLASSES] }
    }
}

impl Leases {
    /// Lease a slot of a class; again is the same lease.
    pub fn insert(&mut self, slot: u32, class: u8) {
        self.remove(slot);
        self.class_of.insert(slot, class);
        self.counts[class as usize] += 1;
    }

    /// End a lease, if there is one.
    pub fn remove(&mut self, slot: u32) {
        if let Some(class) = self.class_of.remove(&slot) {
            self.counts[class as usize] -= 1;
        }
    }

    /// True for a leased slot.
    pub fn contains(&self, slot: u32) -> bool {
        self.class_of.contains_key(&slot)
    }

    /// Slots leased of one class.
    pub fn count(&self, class: u8) -> u64 {
        self.counts[class as usize]
    }

    /// Slots leased.
    pub fn len(&self) -> usize {
        self.class_of.len()
    }

    /// Every slot leased.
    pub fn slots(&self) -> impl Iterator<Item = u32> {
        self.class_of.keys().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_follow_the_slots_by_class() {
        let mut leases = Leases::default();
        leases.insert(16, 0);
        leases.insert(32, 1);
        leases.insert(32, 1);
        assert_eq!((leases.count(0), leases.count(1), leases.len()), (1, 1, 2));
        leases.remove(32);
        leases.remove(48);
        assert_eq!((leases.count(0), leases.count(1), leases.len()), (1, 0, 1));
        assert!(leases.contains(16) && !leases.contains(32));
        assert_eq!(leases.slots().collect::<Vec<_>>(), [16]);
    }
}
