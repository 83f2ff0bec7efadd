//! The rung of the I/O ladder that runs everywhere: threads that block in `pread` and `pwrite`, one I/O each.
//!
//! Reads go first, as somebody waits for them. Each thread shows what it does in its lane, so that the owner sees an I/O that takes too long while
//! it still runs. A result is handed over only when the call has returned: until then the kernel may touch the buffer.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::event::{EventfdFlags, eventfd};

use super::{Device, IoFault, PageBuffer, read_full, write_full};
use crate::clock;
use crate::header::Page;
use crate::layout::PAGE_BYTES;

/// Which queue a job waits in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Urgency {
    /// Somebody waits.
    Read,
    /// The store's own pages and everything that makes room; few and small.
    Upkeep,
    /// Nobody waits.
    Write,
    /// Taken in turns with writes.
    Scan,
}

/// What a thread does for a job.
#[derive(Debug)]
pub(crate) enum Work {
    /// `len` bytes from `offset` into the arena.
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

// SAFETY: the pointers name arena memory, which stays mapped until the pool has been dropped (NvmeStore's contract), and which any process may
// touch at any time anyway; no Rust reference to it is made.
unsafe impl Send for Work {}

/// Work under the owner's name for it.
#[derive(Debug)]
pub(crate) struct Job {
    pub token: u64,
    pub work: Work,
    /// From its start; longer is a hang.
    pub allowance: Duration,
}

/// What came of a job's work.
#[derive(Debug)]
pub(crate) enum Outcome {
    Plain(Result<(), IoFault>),
    Pages(Vec<(u64, Result<Box<Page>, IoFault>)>),
}

/// A job whose call has returned; its buffer is the owner's again.
#[derive(Debug)]
pub(crate) struct Done {
    pub token: u64,
    pub outcome: Outcome,
    /// It was reported by [`Pool::overdue`].
    pub was_late: bool,
}

#[derive(Debug)]
struct Running {
    token: u64,
    since_ns: u64,
    allowance_ns: u64,
    late: bool,
}

#[derive(Debug, Default)]
struct Queues {
    reads: VecDeque<Job>,
    upkeep: VecDeque<Job>,
    writes: VecDeque<Job>,
    scans: VecDeque<Job>,
    scan_next: bool,
    closing: bool,
}

impl Queues {
    fn of(&mut self, urgency: Urgency) -> &mut VecDeque<Job> {
        match urgency {
            Urgency::Read => &mut self.reads,
            Urgency::Upkeep => &mut self.upkeep,
            Urgency::Write => &mut self.writes,
            Urgency::Scan => &mut self.scans,
        }
    }

    fn next(&mut self) -> Option<Job> {
        if let Some(job) = self.reads.pop_front().or_else(|| self.upkeep.pop_front()) {
            return Some(job);
        }
        self.scan_next = !self.scan_next;
        let (first, second) = if self.scan_next { (&mut self.scans, &mut self.writes) } else { (&mut self.writes, &mut self.scans) };
        first.pop_front().or_else(|| second.pop_front())
    }

    fn drain(&mut self) -> Vec<Job> {
        [&mut self.reads, &mut self.upkeep, &mut self.writes, &mut self.scans].into_iter().flat_map(|queue| queue.drain(..)).collect()
    }
}

#[derive(Debug)]
struct Shared {
    device: Arc<dyn Device>,
    queues: Mutex<Queues>,
    wake: Condvar,
    lanes: Vec<Mutex<Option<Running>>>,
    done: Mutex<Vec<Done>>,
    event: OwnedFd,
}

/// The threads. Dropping it discards what has not begun and waits for what has.
#[derive(Debug)]
pub(crate) struct Pool {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

/// A thread that panicked left the plain data behind these locks whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Pool {
    pub fn new(device: Arc<dyn Device>, threads: usize) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            device,
            queues: Mutex::default(),
            wake: Condvar::new(),
            lanes: (0..threads).map(|_| Mutex::new(None)).collect(),
            done: Mutex::default(),
            event: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
        });
        let mut pool = Self { shared, threads: Vec::new() };
        for lane in 0..threads {
            let shared = Arc::clone(&pool.shared);
            pool.threads.push(thread::Builder::new().name(format!("spillway-io-{lane}")).spawn(move || work(&shared, lane))?);
        }
        Ok(pool)
    }

    pub fn submit(&self, urgency: Urgency, job: Job) {
        lock(&self.shared.queues).of(urgency).push_back(job);
        self.shared.wake.notify_one();
    }

    /// Take back what no thread has begun; its buffers were never touched.
    pub fn take_queued(&self) -> Vec<Job> {
        lock(&self.shared.queues).drain()
    }

    pub fn queued(&self, urgency: Urgency) -> usize {
        lock(&self.shared.queues).of(urgency).len()
    }

    /// Tokens of I/Os that run longer than they may; each is named once.
    pub fn overdue(&self) -> Vec<u64> {
        let now = clock::now_ns();
        let judge = |lane: &Mutex<Option<Running>>| {
            let mut lane = lock(lane);
            let running = lane.as_mut().filter(|running| !running.late && now.saturating_sub(running.since_ns) > running.allowance_ns)?;
            running.late = true;
            Some(running.token)
        };
        self.shared.lanes.iter().filter_map(judge).collect()
    }

    /// I/Os that were overdue and still run.
    pub fn late_count(&self) -> usize {
        self.shared.lanes.iter().filter(|lane| lock(lane).as_ref().is_some_and(|running| running.late)).count()
    }

    /// Readable while results wait.
    pub fn event_fd(&self) -> BorrowedFd<'_> {
        self.shared.event.as_fd()
    }

    /// Make `event_fd` readable although no result waits here.
    pub fn ring(&self) {
        ring(&self.shared.event);
    }

    /// Results so far; `event_fd` is quiet afterwards.
    pub fn take_done(&self) -> Vec<Done> {
        // Quiet first: a result that arrives between the two makes it readable again.
        let _ = rustix::io::read(&self.shared.event, &mut [0; 8]);
        std::mem::take(&mut *lock(&self.shared.done))
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        {
            let mut queues = lock(&self.shared.queues);
            queues.closing = true;
            queues.drain();
        }
        self.shared.wake.notify_all();
        for thread in self.threads.drain(..) {
            // A panic was a bug of its thread's; nothing is left to undo here.
            let _ = thread.join();
        }
    }
}

fn ring(event: &OwnedFd) {
    // Fails only when the counter is full, and then it is readable.
    let _ = rustix::io::write(event, &1_u64.to_ne_bytes());
}

fn work(shared: &Shared, lane: usize) {
    while let Some(job) = next_job(shared) {
        let allowance_ns = job.allowance.as_nanos() as u64;
        let running = Running { token: job.token, since_ns: clock::now_ns(), allowance_ns, late: false };
        *lock(&shared.lanes[lane]) = Some(running);
        let outcome = carry_out(&*shared.device, job.work);
        let was_late = lock(&shared.lanes[lane]).take().is_some_and(|running| running.late);
        let mut done = lock(&shared.done);
        done.push(Done { token: job.token, outcome, was_late });
        if done.len() == 1 {
            ring(&shared.event);
        }
    }
}

fn next_job(shared: &Shared) -> Option<Job> {
    let mut queues = lock(&shared.queues);
    loop {
        if let Some(job) = queues.next() {
            return Some(job);
        }
        if queues.closing {
            return None;
        }
        queues = shared.wake.wait(queues).unwrap_or_else(PoisonError::into_inner);
    }
}

fn carry_out(device: &dyn Device, work: Work) -> Outcome {
    Outcome::Plain(match work {
        // SAFETY: the submitter keeps the buffer until this job is done.
        Work::Read { into, len, offset } => unsafe { read_full(device, into, len, offset) },
        // SAFETY: the submitter keeps the buffer until this job is done.
        Work::Write { from, len, offset } => unsafe { write_full(device, from, len, offset) },
        Work::WritePage { page, offset } => write_page(device, &page, offset),
        Work::Format { zero, table, table_offset } => format(device, zero, &table, table_offset),
        Work::Probe { offset, stamp } => probe(device, offset, stamp),
        Work::Sync => device.sync().map_err(IoFault::from),
        Work::ReadPages { offsets } => return Outcome::Pages(read_pages(device, offsets)),
    })
}

fn write_page(device: &dyn Device, page: &Page, offset: u64) -> Result<(), IoFault> {
    let buffer = PageBuffer::of(page);
    // SAFETY: the buffer holds one page.
    unsafe { write_full(device, buffer.as_ptr(), buffer.len(), offset) }
}

fn read_page(device: &dyn Device, buffer: &mut PageBuffer, offset: u64) -> Result<(), IoFault> {
    // SAFETY: the buffer holds one page.
    unsafe { read_full(device, buffer.as_mut_ptr(), buffer.len(), offset) }
}

fn format(device: &dyn Device, zero: Option<(u64, u64)>, table: &Page, table_offset: u64) -> Result<(), IoFault> {
    if let Some((offset, len)) = zero {
        device.zero(offset, len)?;
        // Durable before the table names the new stride: the other way round a crash would show old headers under it.
        device.sync()?;
    }
    write_page(device, table, table_offset)?;
    Ok(device.sync()?)
}

fn read_pages(device: &dyn Device, offsets: Vec<u64>) -> Vec<(u64, Result<Box<Page>, IoFault>)> {
    let mut buffer = PageBuffer::new(1);
    let mut read = |offset| (offset, read_page(device, &mut buffer, offset).map(|()| Box::new(*buffer.page(0))));
    offsets.into_iter().map(&mut read).collect()
}

/// Write a page that was never there before, read it back, compare.
pub(crate) fn probe(device: &dyn Device, offset: u64, stamp: u64) -> Result<(), IoFault> {
    let mut page = [0; PAGE_BYTES as usize];
    for (at, word) in page.chunks_exact_mut(8).enumerate() {
        word.copy_from_slice(&stamp.wrapping_mul(at as u64 + 1).to_le_bytes());
    }
    write_page(device, &page, offset)?;
    let mut buffer = PageBuffer::new(1);
    read_page(device, &mut buffer, offset)?;
    if *buffer.page(0) == page { Ok(()) } else { Err(IoFault::Device(libc::EIO)) }
}
