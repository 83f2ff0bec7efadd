//! What engines wait for from NVMe: each chunk once however often it is asked for, and a bounded number of them.
//!
//! The policy is told of a chunk once and again only for an ask that ends clearly later, so what it queues is bounded by what is on NVMe and not by
//! what an engine writes into its ring. Everything here is O(1) amortised.

use std::collections::{HashMap, VecDeque};

use crate::key::{Fingerprint, Key16, Key36};
use crate::layout::MAX_INCARNATIONS;

/// Chunks whose whole identity an ask told; older ones are forgotten and then judged by their derived key16 alone.
const MAX_EXPECTED: usize = 1 << 16;
/// Of these one engine's asks may be so many: the longest prefix that fits an engine's tickets several times over.
const MAX_PER_ENGINE: u32 = 1 << 14;
/// No request waits longer for a chunk, whatever its engine says: the longest deadline that can be configured.
const MAX_WAIT_MS: u64 = 600_000;
/// How long after its end an ask is remembered: a read that it began may end so much later.
const LINGER_NS: u64 = 60_000_000_000;
const NS_PER_MS: u64 = 1_000_000;

/// What becomes of an ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// New, or so much longer than the one before that the policy must know: wanted within so many milliseconds.
    Tell(u64),
    /// Waits with one that the policy knows.
    Join,
    /// Its engine waits for too much already.
    Decline,
}

#[derive(Debug)]
struct Wanted {
    whole: Key36,
    fingerprint: Fingerprint,
    tag: u8,
    /// When the ask that the policy knows ends.
    until_ns: u64,
    /// Its place in `order`.
    stamp: u64,
}

/// Asks that have not ended.
#[derive(Debug)]
pub struct Expected {
    wanted: HashMap<Key16, Wanted>,
    /// Oldest first; what was forgotten meanwhile stays until it comes up or is swept.
    order: VecDeque<(Key16, u64)>,
    per_engine: [u32; MAX_INCARNATIONS],
    last_stamp: u64,
    /// Asks that joined another.
    pub joined: u64,
    /// Asks that were one too many.
    pub declined: u64,
}

impl Default for Expected {
    fn default() -> Self {
        Self { wanted: HashMap::new(), order: VecDeque::new(), per_engine: [0; MAX_INCARNATIONS], last_stamp: 0, joined: 0, declined: 0 }
    }
}

impl Expected {
    /// An engine asks for a chunk within `wait_ms`. The first one's identity stays until the chunk's read ends or it is too old.
    pub fn ask(&mut self, key: Key16, whole: Key36, fingerprint: Fingerprint, tag: u8, wait_ms: u64, now_ns: u64) -> Ask {
        let wait_ms = wait_ms.min(MAX_WAIT_MS);
        let until_ns = now_ns + wait_ms * NS_PER_MS;
        if let Some(known) = self.wanted.get_mut(&key) {
            // A quarter longer: so the asks of one instant cost a bounded number of tellings, and nobody loses more than a fifth of its wait.
            let left_ns = known.until_ns.saturating_sub(now_ns);
            if (until_ns - now_ns) <= left_ns + left_ns / 4 {
                self.joined += 1;
                return Ask::Join;
            }
            known.until_ns = until_ns;
            return Ask::Tell(wait_ms);
        }
        self.expire(now_ns);
        if self.per_engine.get(usize::from(tag)).is_none_or(|count| *count >= MAX_PER_ENGINE) {
            self.declined += 1;
            return Ask::Decline;
        }
        while self.wanted.len() >= MAX_EXPECTED {
            self.drop_oldest();
        }
        self.last_stamp += 1;
        self.per_engine[usize::from(tag)] += 1;
        self.order.push_back((key, self.last_stamp));
        self.wanted.insert(key, Wanted { whole, fingerprint, tag, until_ns, stamp: self.last_stamp });
        Ask::Tell(wait_ms)
    }

    /// What the chunk must turn out to be.
    pub fn told(&self, key: Key16) -> Option<(&Key36, &Fingerprint)> {
        self.wanted.get(&key).map(|wanted| (&wanted.whole, &wanted.fingerprint))
    }

    /// The chunk's read ended.
    pub fn forget(&mut self, key: Key16) {
        if let Some(wanted) = self.wanted.remove(&key) {
            self.per_engine[usize::from(wanted.tag)] -= 1;
        }
        // As many as are wanted may be stale, so that a sweep is paid for by the asks that made them.
        if self.order.len() > 2 * self.wanted.len() + 64 {
            let wanted = &self.wanted;
            self.order.retain(|(key, stamp)| wanted.get(key).is_some_and(|found| found.stamp == *stamp));
        }
    }

    /// An engine is gone, and with it whoever waited.
    pub fn forget_engine(&mut self, tag: u8) {
        if self.per_engine.get(usize::from(tag)).is_some_and(|count| *count > 0) {
            self.wanted.retain(|_, wanted| wanted.tag != tag);
            self.per_engine[usize::from(tag)] = 0;
        }
    }

    /// Asks that have not ended.
    pub fn len(&self) -> usize {
        self.wanted.len()
    }

    fn expire(&mut self, now_ns: u64) {
        while let Some((key, stamp)) = self.order.front() {
            let is_current = self.wanted.get(key).filter(|wanted| wanted.stamp == *stamp);
            if is_current.is_some_and(|wanted| wanted.until_ns.saturating_add(LINGER_NS) > now_ns) {
                break;
            }
            self.drop_oldest();
        }
    }

    fn drop_oldest(&mut self) {
        let Some((key, stamp)) = self.order.pop_front() else { return };
        if self.wanted.get(&key).is_some_and(|wanted| wanted.stamp == stamp)
            && let Some(wanted) = self.wanted.remove(&key)
        {
            self.per_engine[usize::from(wanted.tag)] -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use proptest::prelude::*;

    use super::*;

    const SECOND_NS: u64 = 1_000_000_000;

    fn ask(expected: &mut Expected, number: u64, tag: u8, wait_ms: u64, now_ns: u64) -> Ask {
        expected.ask(Key16(number, number), [number as u8; 36], [1; 32], tag, wait_ms, now_ns)
    }

    #[test]
    fn the_same_ask_is_told_once_and_again_when_it_ends_later() {
        let mut expected = Expected::default();
        assert_eq!(ask(&mut expected, 1, 0, 1000, SECOND_NS), Ask::Tell(1000));
        assert!((0..10_000).all(|_| ask(&mut expected, 1, 0, 1000, SECOND_NS) == Ask::Join));
        assert_eq!(ask(&mut expected, 1, 1, 1000, SECOND_NS + SECOND_NS / 2), Ask::Tell(1000));
        expected.forget(Key16(1, 1));
        assert_eq!(ask(&mut expected, 1, 0, 1000, 2 * SECOND_NS), Ask::Tell(1000));
    }

    #[test]
    fn ever_longer_asks_of_one_instant_are_told_a_few_times() {
        let mut expected = Expected::default();
        let told = (1..=u64::from(u16::MAX)).chain([u64::MAX]).filter(|wait_ms| ask(&mut expected, 1, 0, *wait_ms, SECOND_NS) != Ask::Join);
        assert!(told.count() <= 64);
        assert!(matches!(ask(&mut expected, 2, 0, u64::MAX, SECOND_NS), Ask::Tell(MAX_WAIT_MS)));
    }

    #[test]
    fn one_engine_leaves_room_for_the_others() {
        let mut expected = Expected::default();
        for number in 0..u64::from(MAX_PER_ENGINE) * 2 {
            ask(&mut expected, number, 3, 1000, SECOND_NS);
        }
        assert_eq!((expected.len(), expected.declined), (MAX_PER_ENGINE as usize, MAX_PER_ENGINE.into()));
        assert_eq!(ask(&mut expected, 1 << 40, 4, 1000, SECOND_NS), Ask::Tell(1000));
        // Long after all of them ended there is room again, though none was read.
        assert_eq!(ask(&mut expected, 1 << 41, 3, 1000, 100 * SECOND_NS), Ask::Tell(1000));
        expected.forget_engine(3);
        assert_eq!(expected.len(), 0);
    }

    #[test]
    fn forgetting_does_not_walk_what_waits() {
        let mut expected = Expected::default();
        let began = Instant::now();
        let engines = 4;
        for number in 0..MAX_EXPECTED as u64 {
            ask(&mut expected, number, (number % engines) as u8, 1000, SECOND_NS);
        }
        // The last one first, which a walk from the oldest on finds at the end.
        for number in (0..MAX_EXPECTED as u64).rev() {
            expected.forget(Key16(number, number));
        }
        assert_eq!((expected.len(), expected.order.len() <= 64), (0, true));
        assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    }

    proptest! {
        #[test]
        fn counts_and_bounds_hold(steps in prop::collection::vec((0_u8..4, 0_u64..40, 0_u8..3, 0_u64..200_000), 1..400)) {
            let mut expected = Expected::default();
            let mut now_ns = SECOND_NS;
            for (what, number, tag, figure) in steps {
                match what {
                    0 => expected.forget(Key16(number, number)),
                    1 => now_ns += figure * NS_PER_MS,
                    2 if figure < 20_000 => expected.forget_engine(tag),
                    _ => _ = ask(&mut expected, number, tag, figure, now_ns),
                }
                prop_assert_eq!(expected.per_engine.iter().sum::<u32>() as usize, expected.len());
                prop_assert!(expected.order.len() >= expected.len());
                for tag in 0..3_u8 {
                    let count = expected.wanted.values().filter(|wanted| wanted.tag == tag).count();
                    prop_assert_eq!(expected.per_engine[usize::from(tag)] as usize, count);
                }
            }
        }
    }
}
