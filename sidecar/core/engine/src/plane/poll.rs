//! The plane's loop body: wait for a doorbell or a completed I/O, do what is due, hand the events out.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::Ordering;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::clock;
use crate::layout::MAX_CLASSES;

use super::{Event, Plane};

/// A heart beats at least this often while Python waits in here; engines give up after a second.
const WAIT_MAX_NS: u64 = 100_000_000;
const LIVENESS_NS: u64 = 200_000_000;
/// Doorbells ring for every publication; the folder is not read for each.
const NEWCOMERS_NS: u64 = 10_000_000;
const QUARANTINE_NS: u64 = 1_000_000_000;

/// What a pass has to do besides the rings, and what it collected.
#[derive(Debug)]
pub(super) struct Due {
    liveness_at: u64,
    quarantine_at: u64,
    newcomers_at: u64,
    /// A doorbell may announce a new control file.
    pub rang: bool,
    /// An entry became hit or miss.
    pub progress: bool,
    /// Per class: a slot became free, however.
    pub freed: [bool; MAX_CLASSES],
    /// Those of them that a chunk had left.
    pub evicted: [u64; MAX_CLASSES],
}

impl Default for Due {
    fn default() -> Self {
        Self {
            liveness_at: 0,
            quarantine_at: 0,
            newcomers_at: 0,
            rang: false,
            progress: false,
            freed: [false; MAX_CLASSES],
            evicted: [0; MAX_CLASSES],
        }
    }
}

impl Plane {
    /// Work, wait at most `timeout` for more work, return at most `max_events` events in order.
    pub fn poll(&mut self, timeout: Duration, max_events: usize) -> Vec<Event> {
        let end = clock::now_ns().saturating_add(timeout.as_nanos().min(u128::from(u64::MAX / 2)) as u64);
        loop {
            let left = self.pass();
            let now = clock::now_ns();
            if !self.events.is_empty() || now >= end {
                break;
            }
            if !left {
                self.wait((end - now).min(WAIT_MAX_NS));
            }
        }
        let count = self.events.len().min(max_events);
        let told = self.events.drain(..count).collect();
        if self.adopted_left > 0 {
            self.adopted_left = self.adopted_left.saturating_sub(count);
            if self.adopted_left == 0 {
                // As long as all that survived, and never again.
                self.events.shrink_to(super::ring_ops::MAX_EVENTS_WAITING);
            }
        }
        told
    }

    /// One round of everything that is due; true when a ring still holds operations.
    pub(super) fn pass(&mut self) -> bool {
        self.beat();
        self.watch_arena();
        self.serve_tier();
        let left = self.serve_rings();
        self.serve_tickets_and_leases();
        self.watch_when_due();
        self.recycle();
        self.tell();
        left
    }

    fn beat(&self) {
        let header = self.index.header();
        header.heartbeat_ns.store(clock::now_ns(), Ordering::Release);
        header.faulted_bytes.store(self.arena.faulted_bytes(), Ordering::Release);
    }

    /// An engine that truncates the arena loses the pool's DRAM tier, not the sidecar: every lookup is MISS from then on.
    fn watch_arena(&mut self) {
        if !self.withdrawn && self.arena_guard.is_poisoned() {
            self.withdrawn = true;
            self.index.retire();
        }
    }

    fn watch_when_due(&mut self) {
        let now = clock::now_ns();
        if now >= self.due.liveness_at {
            self.due.liveness_at = now + LIVENESS_NS;
            self.watch_liveness();
            self.watch_extents();
            self.due.rang = true;
        }
        if self.due.rang && now >= self.due.newcomers_at {
            self.due.rang = false;
            self.due.newcomers_at = now + NEWCOMERS_NS;
            self.meet_newcomers();
            self.settle_geometry();
        }
        if now >= self.due.quarantine_at {
            self.due.quarantine_at = now + QUARANTINE_NS;
            self.end_quarantine();
        }
    }

    fn tell(&mut self) {
        if std::mem::take(&mut self.due.progress) {
            self.index.bump_progress();
        }
        for class in 0..MAX_CLASSES {
            let count = std::mem::take(&mut self.due.evicted[class]);
            if std::mem::take(&mut self.due.freed[class]) {
                self.emit(Event::Freed { class: class as u8, count });
            }
        }
    }

    fn wait(&mut self, wait_ns: u64) {
        let timeout = Timespec { tv_sec: (wait_ns / 1_000_000_000) as i64, tv_nsec: (wait_ns % 1_000_000_000) as i64 };
        let io = self.tier.event_fd();
        let mut fds = vec![PollFd::new(&self.doorbell, PollFlags::IN)];
        fds.extend(io.as_ref().map(|fd: &BorrowedFd<'_>| PollFd::new(fd, PollFlags::IN)));
        // A signal or an error only means an early look.
        let _ = poll(&mut fds, Some(&timeout));
        let rang = !fds[0].revents().is_empty();
        drop(fds);
        if rang {
            self.due.rang = true;
            drain(self.doorbell.as_fd());
        }
    }
}

fn drain(doorbell: BorrowedFd<'_>) {
    let mut bytes = [0; 4096];
    while matches!(rustix::io::read(doorbell, &mut bytes), Ok(count) if count == bytes.len()) {}
}
