//! The daemon's promise: by when, on CLOCK_MONOTONIC, it says something again. One word in memory that both processes map; the daemon
//! renews it in every turn of its loop, and one that lets it pass stands still.
//!
//! A promise counts as broken when it was seen so at several looks in a row: a container that was frozen wakes up with all promises broken,
//! and its daemon must get the chance to renew before it is judged.

use std::time::Duration;

/// How often the supervisor looks.
pub const LOOK_EVERY: Duration = Duration::from_millis(500);
const LOOKS: u32 = 3;

#[derive(Default)]
pub struct Watch {
    broken: u32,
}

impl Watch {
    /// One look at the promise, in nanoseconds; 0: the daemon has not promised anything. True when it stands still.
    pub fn stands_still(&mut self, promise_ns: u64, now_ns: u64) -> bool {
        let broken = promise_ns != 0 && now_ns > promise_ns;
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
}
