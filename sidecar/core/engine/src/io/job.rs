//! What a rung is asked to do, what comes of it, and the book that its owner and its workers share: queues, what runs, results.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::event::{EventfdFlags, eventfd};

use super::IoFault;
use crate::checksum::Digest;
use crate::clock;
use crate::header::Page;

/// Which queue a job waits in, the first that is served first; writes and scans take turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Urgency {
    /// An engine waits.
    Demand,
    /// Policy expects that an engine will ask.
    Promotion,
    /// The store's own pages and everything that makes room; few and small.
    Upkeep,
    /// Nobody waits.
    Write,
    /// Nobody waits.
    Scan,
}

/// What is done for a job.
#[derive(Debug)]
pub(crate) enum Work {
    /// A slot of `len` bytes from `offset` into the arena; its payload and padding are digested.
    Read { into: *mut u8, len: usize, offset: u64 },
    /// `len` bytes from the arena to `offset`.
    Write { from: *const u8, len: usize, offset: u64 },
    /// One page of the store's own.
    WritePage { page: Box<Page>, offset: u64 },
    /// Zero a range if one is given, write a table page, make both durable.
    Format { zero: Option<(u64, u64)>, table: Box<Page>, table_offset: u64 },
    /// One header page per offset.
    ReadPages { offsets: Vec<u64> },
    /// Write a stamp to the scratch page and read it back.
    Probe { offset: u64, stamp: u64 },
    /// fdatasync.
    Sync,
}

// SAFETY: the pointers name arena memory, which stays mapped until the rung has been dropped (NvmeStore's contract), and which any process may
// touch at any time anyway; no Rust reference to it outlives the digest of it.
unsafe impl Send for Work {}

/// Work under the owner's name for it.
#[derive(Debug)]
pub(crate) struct Job {
    pub token: u64,
    pub work: Work,
    /// From its start; longer is a hang.
    pub allowance: Duration,
}

/// Header pages by offset.
pub(crate) type Pages = Vec<(u64, Result<Box<Page>, IoFault>)>;

/// What came of a job's work.
#[derive(Debug)]
pub(crate) enum Outcome {
    Plain(Result<(), IoFault>),
    /// Of a slot that was read.
    Slot(Result<Digest, IoFault>),
    Pages(Pages),
}

/// A job that is over; its buffer is the owner's again.
#[derive(Debug)]
pub(crate) struct Done {
    pub token: u64,
    pub outcome: Outcome,
    /// It was reported as overdue.
    pub was_late: bool,
}

/// May the next job of a queue begin?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Take,
    /// Not here; look at less urgent ones.
    Skip,
    /// Not now, and nothing less urgent before it.
    Hold,
}

/// Jobs that nobody has begun.
#[derive(Debug, Default)]
pub(crate) struct Queues {
    demand: VecDeque<Job>,
    promotions: VecDeque<Job>,
    upkeep: VecDeque<Job>,
    writes: VecDeque<Job>,
    scans: VecDeque<Job>,
    scan_next: bool,
    pub closing: bool,
}

impl Queues {
    fn of(&mut self, urgency: Urgency) -> &mut VecDeque<Job> {
        match urgency {
            Urgency::Demand => &mut self.demand,
            Urgency::Promotion => &mut self.promotions,
            Urgency::Upkeep => &mut self.upkeep,
            Urgency::Write => &mut self.writes,
            Urgency::Scan => &mut self.scans,
        }
    }

    /// The most urgent job that may begin.
    pub fn next(&mut self, judge: impl Fn(Urgency, &Work) -> Verdict) -> Option<(Urgency, Job)> {
        let last = if self.scan_next { [Urgency::Scan, Urgency::Write] } else { [Urgency::Write, Urgency::Scan] };
        for urgency in [Urgency::Demand, Urgency::Promotion, Urgency::Upkeep].into_iter().chain(last) {
            let queue = self.of(urgency);
            let Some(front) = queue.front() else { continue };
            match judge(urgency, &front.work) {
                Verdict::Hold => return None,
                Verdict::Skip => {}
                Verdict::Take => {
                    let job = queue.pop_front()?;
                    if matches!(urgency, Urgency::Write | Urgency::Scan) {
                        self.scan_next = urgency == Urgency::Write;
                    }
                    return Some((urgency, job));
                }
            }
        }
        None
    }

    fn drain(&mut self) -> Vec<Job> {
        let queues = [&mut self.demand, &mut self.promotions, &mut self.upkeep, &mut self.writes, &mut self.scans];
        queues.into_iter().flat_map(|queue| queue.drain(..)).collect()
    }
}

#[derive(Debug)]
struct Running {
    since_ns: u64,
    allowance_ns: u64,
    late: bool,
}

/// What the owner and the workers of a rung share.
#[derive(Debug)]
pub(crate) struct Desk {
    queues: Mutex<Queues>,
    /// For workers that wait for a job.
    wake: Condvar,
    running: Mutex<HashMap<u64, Running>>,
    done: Mutex<Vec<Done>>,
    event: OwnedFd,
}

/// A thread that panicked left the plain data behind these locks whole.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Make an eventfd readable.
pub(super) fn ring(event: &OwnedFd) {
    // Fails only when the counter is full, and then it is readable.
    let _ = rustix::io::write(event, &1_u64.to_ne_bytes());
}

/// An eventfd that never blocks.
pub(super) fn event() -> io::Result<OwnedFd> {
    Ok(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?)
}

/// The owner's side.
impl Desk {
    pub fn new() -> io::Result<Self> {
        Ok(Self { queues: Mutex::default(), wake: Condvar::new(), running: Mutex::default(), done: Mutex::default(), event: event()? })
    }

    pub fn submit(&self, urgency: Urgency, job: Job) {
        lock(&self.queues).of(urgency).push_back(job);
    }

    /// Wake a worker that waits here.
    pub fn notify(&self) {
        self.wake.notify_one();
    }

    /// Take back what nobody has begun; its buffers were never touched.
    pub fn take_queued(&self) -> Vec<Job> {
        lock(&self.queues).drain()
    }

    pub fn queued(&self, urgency: Urgency) -> usize {
        lock(&self.queues).of(urgency).len()
    }

    /// Tokens of jobs that run longer than they may; each is named once.
    pub fn overdue(&self) -> Vec<u64> {
        let now = clock::now_ns();
        let is_overdue = |running: &Running| !running.late && now.saturating_sub(running.since_ns) > running.allowance_ns;
        let mut running = lock(&self.running);
        let named = running.iter_mut().filter(|(_, running)| is_overdue(running));
        named
            .map(|(token, running)| {
                running.late = true;
                *token
            })
            .collect()
    }

    /// Jobs that were overdue and still run.
    pub fn late_count(&self) -> usize {
        lock(&self.running).values().filter(|running| running.late).count()
    }

    /// Readable while results wait.
    pub fn event_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }

    /// Make `event_fd` readable although no result waits here.
    pub fn ring(&self) {
        ring(&self.event);
    }

    /// Results so far; `event_fd` is quiet afterwards.
    pub fn take_done(&self) -> Vec<Done> {
        // Quiet first: a result that arrives between the two makes it readable again.
        let _ = rustix::io::read(&self.event, &mut [0; 8]);
        std::mem::take(&mut *lock(&self.done))
    }

    /// Discard what has not begun; workers end when they have nothing left.
    pub fn close(&self) {
        {
            let mut queues = lock(&self.queues);
            queues.closing = true;
            queues.drain();
        }
        self.wake.notify_all();
    }
}

/// The workers' side.
impl Desk {
    /// The next job, which counts as running from here. None: nothing may begin; the second value says that nothing ever will.
    pub fn begin(&self, judge: impl Fn(Urgency, &Work) -> Verdict) -> (Option<(Urgency, Job)>, bool) {
        let mut queues = lock(&self.queues);
        let found = queues.next(judge);
        let is_over = found.is_none() && queues.closing;
        drop(queues);
        if let Some((_, job)) = &found {
            self.note_running(job);
        }
        (found, is_over)
    }

    /// As [`Desk::begin`], waiting for one. None: the rung is closing.
    pub fn wait_to_begin(&self, judge: impl Fn(Urgency, &Work) -> Verdict) -> Option<Job> {
        let mut queues = lock(&self.queues);
        let (_, job) = loop {
            if let Some(found) = queues.next(&judge) {
                break found;
            }
            if queues.closing {
                return None;
            }
            queues = self.wake.wait(queues).unwrap_or_else(PoisonError::into_inner);
        };
        drop(queues);
        self.note_running(&job);
        Some(job)
    }

    fn note_running(&self, job: &Job) {
        let running = Running { since_ns: clock::now_ns(), allowance_ns: job.allowance.as_nanos() as u64, late: false };
        lock(&self.running).insert(job.token, running);
    }

    /// Hand over what came of a job.
    pub fn end(&self, token: u64, outcome: Outcome) {
        let was_late = lock(&self.running).remove(&token).is_some_and(|running| running.late);
        let mut done = lock(&self.done);
        done.push(Done { token, outcome, was_late });
        if done.len() == 1 {
            ring(&self.event);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn submit(desk: &Desk, urgency: Urgency, token: u64) {
        desk.submit(urgency, Job { token, work: Work::Sync, allowance: Duration::ZERO });
    }

    fn order(desk: &Desk, judge: impl Fn(Urgency) -> Verdict) -> Vec<u64> {
        std::iter::from_fn(|| desk.begin(|urgency, _| judge(urgency)).0.map(|(_, job)| job.token)).collect()
    }

    #[test]
    fn who_waits_goes_first_and_writes_take_turns_with_the_scan() {
        let desk = Desk::new().expect("an eventfd");
        for (token, urgency) in
            [Urgency::Scan, Urgency::Scan, Urgency::Write, Urgency::Write, Urgency::Upkeep, Urgency::Promotion, Urgency::Demand]
                .into_iter()
                .enumerate()
        {
            submit(&desk, urgency, token as u64);
        }
        assert_eq!(order(&desk, |_| Verdict::Take), [6, 5, 4, 2, 0, 3, 1]);
    }

    #[test]
    fn what_holds_is_not_overtaken_and_what_is_skipped_is() {
        let desk = Desk::new().expect("an eventfd");
        submit(&desk, Urgency::Promotion, 1);
        submit(&desk, Urgency::Write, 2);
        assert!(order(&desk, |urgency| if urgency == Urgency::Promotion { Verdict::Hold } else { Verdict::Take }).is_empty());
        assert_eq!(order(&desk, |urgency| if urgency == Urgency::Promotion { Verdict::Skip } else { Verdict::Take }), [2]);
    }

    #[test]
    fn what_runs_too_long_is_named_once_and_told_with_its_result() {
        let desk = Desk::new().expect("an eventfd");
        submit(&desk, Urgency::Write, 7);
        assert_eq!(order(&desk, |_| Verdict::Take), [7]);
        while desk.overdue() != [7] {}
        assert!(desk.overdue().is_empty() && desk.late_count() == 1);
        desk.end(7, Outcome::Plain(Ok(())));
        assert!(desk.late_count() == 0 && desk.take_done()[0].was_late);
    }
}
