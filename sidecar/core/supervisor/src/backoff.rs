//! How long to wait before the next start: not at all after a life of a minute, else 0, 0.1, 0.2 ... 10 s.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(10);
/// A daemon that lived this long was healthy: its end is a new story.
const HEALTHY: Duration = Duration::from_secs(60);

pub struct Backoff {
    next: Duration,
}

impl Backoff {
    pub fn new() -> Self {
        Self { next: Duration::ZERO }
    }

    /// The wait after a life of `lived`.
    pub fn next(&mut self, lived: Duration) -> Duration {
        if lived >= HEALTHY {
            self.next = Duration::ZERO;
        }
        let wait = self.next;
        self.next = if wait.is_zero() { FIRST } else { (wait * 2).min(LONGEST) };
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_ten_seconds_and_begin_anew_after_a_healthy_life() {
        let mut backoff = Backoff::new();
        let waits: Vec<u128> = (0..9).map(|_| backoff.next(Duration::ZERO).as_millis()).collect();
        assert_eq!(waits, [0, 100, 200, 400, 800, 1600, 3200, 6400, 10_000]);
        assert_eq!(backoff.next(Duration::from_secs(61)), Duration::ZERO);
    }
}
