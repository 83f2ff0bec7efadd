//! Grant rings: leases that an engine takes without asking, and that the sidecar can take back as long as the engine has not.
//!
//! Both sides take from the ring's front, so both move its tail, each by a compare-exchange. The tail's lower 48 bits count the slots that were
//! taken by either side, its upper 16 how often the sidecar took some back. The second figure is what a successor goes by: it tells whether a
//! predecessor that died on its way had taken back what it was about to.

use crate::sync::{AtomicU64, Ordering};

const TAKEN_BITS: u32 = 48;
const TAKEN_MASK: u64 = (1 << TAKEN_BITS) - 1;

/// A grant ring's tail as a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tail {
    /// Slots taken by either side, modulo 2^48.
    pub taken: u64,
    /// How often the sidecar took some back.
    pub recalls: u16,
}

impl Tail {
    /// From its word.
    pub fn of(word: u64) -> Self {
        Self { taken: word & TAKEN_MASK, recalls: (word >> TAKEN_BITS) as u16 }
    }

    fn word(self) -> u64 {
        self.taken & TAKEN_MASK | u64::from(self.recalls) << TAKEN_BITS
    }

    /// Slots in a ring of `size` that nobody took; none where head and tail cannot both be right.
    pub fn waiting(self, head: u64, size: u64) -> u64 {
        match head.wrapping_sub(self.taken) & TAKEN_MASK {
            waiting if waiting <= size => waiting,
            _ => 0,
        }
    }
}

/// Engine: take at most `count` slots from the front. `slot_at` copies the slot at a place. Tries again only where the sidecar took some meanwhile.
pub fn take(head: &AtomicU64, tail: &AtomicU64, size: u64, count: u64, slot_at: impl Fn(u64) -> u32) -> Vec<u32> {
    loop {
        let word = tail.load(Ordering::Acquire);
        let seen = Tail::of(word);
        let ready = seen.waiting(head.load(Ordering::Acquire), size).min(count);
        if ready == 0 {
            return Vec::new();
        }
        // Copied first: once they are taken the sidecar may write other slots in their places.
        let slots = (0..ready).map(|step| slot_at(seen.taken + step)).collect();
        let taken = Tail { taken: seen.taken + ready, ..seen };
        if tail.compare_exchange(word, taken.word(), Ordering::AcqRel, Ordering::Relaxed).is_ok() {
            return slots;
        }
    }
}

/// Sidecar: take back `count` slots from the front, at most what `seen` left there. False: the engine was there first, and nothing was taken.
pub fn recall(tail: &AtomicU64, seen: Tail, count: u64) -> bool {
    let recalled = Tail { taken: seen.taken + count, recalls: seen.recalls.wrapping_add(1) };
    tail.compare_exchange(seen.word(), recalled.word(), Ordering::AcqRel, Ordering::Relaxed).is_ok()
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_tail_counts_both_sides_and_tells_recalls_apart() {
        let (head, tail) = (AtomicU64::new(8), AtomicU64::new(0));
        assert_eq!(take(&head, &tail, 16, 3, |place| place as u32), [0, 1, 2]);
        let seen = Tail::of(tail.load(Ordering::Relaxed));
        assert_eq!((seen, seen.waiting(8, 16)), (Tail { taken: 3, recalls: 0 }, 5));
        assert!(recall(&tail, seen, 4));
        assert!(!recall(&tail, seen, 1), "what it goes by is old");
        assert_eq!(Tail::of(tail.load(Ordering::Relaxed)), Tail { taken: 7, recalls: 1 });
        assert_eq!(take(&head, &tail, 16, 9, |place| place as u32), [7]);
        assert_eq!(take(&head, &tail, 16, 9, |place| place as u32), []);
    }

    #[test]
    fn impossible_words_hold_nothing_and_counts_wrap() {
        assert_eq!(Tail::of(u64::MAX).waiting(5, 16), 6, "the count wraps at 2^48");
        assert_eq!(Tail::of(9).waiting(5, 16), 0, "a tail before its head");
        assert_eq!(Tail::of(0).waiting(17, 16), 0, "more than the ring holds");
        let tail = AtomicU64::new(Tail { taken: TAKEN_MASK, recalls: u16::MAX }.word());
        assert!(recall(&tail, Tail::of(tail.load(Ordering::Relaxed)), 1));
        assert_eq!(tail.load(Ordering::Relaxed), 0);
    }
}
