//! The breaker: what makes the tier go away, and when it may come back.

use std::time::Duration;

const FIRST_PROBE: Duration = Duration::from_millis(500);
const LAST_PROBE: Duration = Duration::from_secs(10);
/// A stride of a MiB gets 10 ms more than a page: what a device at 100 MB/s needs, a tenth of the slowest that is worth having.
const SLOWEST_BYTES_PER_SECOND: u64 = 100_000_000;
/// Nobody waits for a write, and file systems stall them behind their journal.
const WRITE_PATIENCE: u32 = 4;
/// fdatasync of 4 GiB and the zeroing of an extent.
const SYNC_PATIENCE: u32 = 40;

/// Open or closed, and since when.
#[derive(Debug)]
pub struct Breaker {
    deadline: Duration,
    open: Option<Open>,
    /// Times it opened.
    pub opened: u64,
}

#[derive(Debug)]
struct Open {
    probe_at_ns: u64,
    probe_in: Duration,
    probing: bool,
}

impl Breaker {
    pub fn new(deadline: Duration) -> Self {
        Self { deadline, open: None, opened: 0 }
    }

    pub fn set_deadline(&mut self, deadline: Duration) {
        self.deadline = deadline;
    }

    pub fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// True when it was closed.
    pub fn open(&mut self, now_ns: u64) -> bool {
        if self.open.is_some() {
            return false;
        }
        self.opened += 1;
        self.open = Some(Open { probe_at_ns: now_ns + FIRST_PROBE.as_nanos() as u64, probe_in: FIRST_PROBE, probing: false });
        true
    }

    /// True when a probe should be submitted now; it then counts as submitted.
    pub fn probe_due(&mut self, now_ns: u64) -> bool {
        match &mut self.open {
            Some(open) if !open.probing && now_ns >= open.probe_at_ns => {
                open.probing = true;
                true
            }
            _ => false,
        }
    }

    /// A probe's verdict; true when the breaker closed.
    pub fn probed(&mut self, worked: bool, now_ns: u64) -> bool {
        let Some(open) = &mut self.open else { return false };
        if worked {
            self.open = None;
            return true;
        }
        open.probing = false;
        open.probe_in = (open.probe_in * 2).min(LAST_PROBE);
        open.probe_at_ns = now_ns + open.probe_in.as_nanos() as u64;
        false
    }

    /// How long a read of `bytes` may take.
    pub fn read_allowance(&self, bytes: u64) -> Duration {
        self.deadline + Duration::from_nanos(bytes.saturating_mul(1_000_000_000 / SLOWEST_BYTES_PER_SECOND))
    }

    /// How long a write of `bytes` may take.
    pub fn write_allowance(&self, bytes: u64) -> Duration {
        self.read_allowance(bytes) * WRITE_PATIENCE
    }

    /// How long making things durable may take.
    pub fn sync_allowance(&self) -> Duration {
        self.deadline * SYNC_PATIENCE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probes_come_at_growing_distances_until_one_works() {
        let mut breaker = Breaker::new(Duration::from_millis(250));
        assert!(breaker.open(0) && !breaker.open(0));
        assert!(!breaker.probe_due(499_999_999) && breaker.probe_due(500_000_000) && !breaker.probe_due(u64::MAX));
        assert!(!breaker.probed(false, 0));
        assert!(!breaker.probe_due(999_999_999) && breaker.probe_due(1_000_000_000));
        assert!(breaker.probed(true, 0) && !breaker.is_open());
        assert_eq!(breaker.opened, 1);
    }

    #[test]
    fn larger_transfers_may_take_longer() {
        let breaker = Breaker::new(Duration::from_millis(250));
        assert_eq!(breaker.read_allowance(4 << 20).as_millis(), 291);
        assert!(breaker.write_allowance(4096) < breaker.sync_allowance());
    }
}
