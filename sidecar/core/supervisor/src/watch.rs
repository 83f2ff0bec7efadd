//! The daemon's promise: by when, on CLOCK_MONOTONIC, it says something again. One word in memory that both processes map; the daemon
//! renews it in every turn of its loop, and one that lets it pass stands still.
//!
//! A promise counts as broken when it was seen so at several looks in a row. A container that was frozen, or whose node was, wakes up with all
//! promises broken among many that want the CPU: the supervisor sees it by its own late look, and judges nobody for a while.

use std::time::Duration;

/// How often the supervisor looks.
pub const LOOK_EVERY: Duration = Duration::from_millis(500);
const LOOKS: u32 = 3;
/// A look that comes so much later than it should tells that this process stood still as well ...
const LATE: Duration = Duration::from_secs(2);
/// ... and for so long after it a broken promise says nothing.
const GRACE: Duration = Duration::from_secs(10);

#[derive(Default)]
pub struct Watch {
    broken: u32,
    looked_ns: u64,
    judged_from_ns: u64,
}

impl Watch {
    /// One look at the promise, in nanoseconds; 0: the daemon has not promised anything. True when it stands still.
    pub fn stands_still(&mut self, promise_ns: u64, now_ns: u64) -> bool {
        if self.looked_ns != 0 && now_ns.saturating_sub(self.looked_ns) > LATE.as_nanos() as u64 {
            self.judged_from_ns = now_ns + GRACE.as_nanos() as u64;
        }
        self.looked_ns = now_ns;
        let broken = promise_ns != 0 && now_ns > promise_ns && now_ns >= self.judged_from_ns;
        self.broken = if broken { self.broken + 1 } else { 0 };
        self.broken >= LOOKS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_promise_is_broken_when_it_was_seen_so_three_times_in_a_row() {
        let mut watch = Watch::default();
        let looks = [(0, 9), (5, 4), (5, 5), (5, 6), (5, 7), (20, 8), (20, 21), (20, 22), (20, 23)];
        let judged: Vec<bool> = looks.iter().map(|(promise, now)| watch.stands_still(*promise, *now)).collect();
        assert_eq!(judged, [false, false, false, false, false, false, false, false, true]);
    }

    #[test]
    fn whoever_was_frozen_is_judged_some_seconds_after_it_woke() {
        let mut watch = Watch::default();
        let second = 1_000_000_000;
        let mut look = |at: u64| watch.stands_still(2 * second, at * second / 2);
        assert!(!look(2));
        // Frozen for a minute.
        assert!((120..140).all(|at| !look(at)));
        assert!(!look(140) && !look(141));
        assert!(look(142));
    }
}
