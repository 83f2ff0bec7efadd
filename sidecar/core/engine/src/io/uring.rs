//! The rungs over io_uring: one thread keeps many I/Os in flight, and digests what was read while the next ones are under way.
//!
//! With registration the kernel looks the file up and pins the arena's pages once instead of at every I/O. What its ring cannot do without blocking
//! (zeroing, durability, the store's own pages) goes to one thread beside it.
//!
//! A page that an engine truncated away is EFAULT here, never SIGBUS: the I/O fails with [`IoFault::Memory`]. Pinned pages live on instead; what
//! lands in them nobody sees, and the digest, which looks through the mapping, does not fit.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use io_uring::{IoUring, opcode, squeue, types};

use super::job::{Desk, Job, Outcome, Urgency, Verdict, Work, event, lock, ring};
use super::rung::{Refusal, Rung, RungKind};
use super::threads::{Workers, arrived};
use super::{Device, IoFault, PageBuffer, Transform};
use crate::layout::{EXTENT_BYTES, PAGE_BYTES};

/// Slots in flight: the depth at which devices reach their bandwidth.
const DEPTH: usize = 32;
/// Bytes in flight: on a slow device more of them would only be late.
const IN_FLIGHT_BYTES: usize = 32 << 20;
/// Of the slots in flight, writes and scans take no more than this: who waits finds room at once.
const BACKGROUND_DEPTH: usize = 24;
/// Scan jobs in flight, each of many pages.
const SCAN_DEPTH: usize = 2;
/// More than ever is in flight: 32 slots, 2 scan jobs of 32 pages, the wake-up.
const SQ_ENTRIES: u32 = 128;
const CQ_ENTRIES: u32 = 512;
/// The kernel's own bound.
const BUFFERS_MAX: u32 = 1 << 14;
const WAKE: u64 = u64::MAX;
/// After the kernel had no memory for a submission.
const PAUSE: Duration = Duration::from_millis(1);

/// What the owner and the ring's thread share besides the desk.
#[derive(Debug)]
struct Common {
    wake: OwnedFd,
    /// The arena as far as it is backed: (address, bytes).
    backed: (AtomicUsize, AtomicUsize),
    fallen: Mutex<Option<Refusal>>,
}

/// The rung, with registration or without.
#[derive(Debug)]
pub(super) struct Uring {
    desk: Arc<Desk>,
    common: Arc<Common>,
    registered: bool,
    upkeep: Option<Workers>,
    thread: Option<JoinHandle<()>>,
    proof: PageBuffer,
}

impl Uring {
    pub fn new<T: Transform>(device: Arc<dyn Device>, transform: T, registered: bool) -> io::Result<Self> {
        let file = device.descriptor().ok_or_else(|| io::Error::other("the device is no file"))?.as_raw_fd();
        let at = |what: &'static str| move |error: io::Error| io::Error::new(error.kind(), format!("{what}: {error}"));
        let mut ring = IoUring::builder().setup_cqsize(CQ_ENTRIES).build(SQ_ENTRIES).map_err(at("io_uring_setup"))?;
        // SAFETY: it names no memory.
        unsafe { ring.submission().push(&opcode::Nop::new().build()) }.map_err(io::Error::other)?;
        ring.submit_and_wait(1).map_err(at("io_uring_enter"))?;
        ring.completion().for_each(drop);
        let mut proof = PageBuffer::new(2);
        let mut memory = Memory::default();
        if registered {
            ring.submitter().register_files(&[file]).map_err(at("registering the file"))?;
            ring.submitter().register_buffers_sparse(BUFFERS_MAX).map_err(at("registering buffers"))?;
            // The pages live as long as the rung, which outlives its ring.
            memory.add(&ring, proof.as_mut_ptr() as usize, proof.len()).map_err(at("registering buffers"))?;
        }
        let desk = Arc::new(Desk::new()?);
        let backed = (AtomicUsize::new(0), AtomicUsize::new(0));
        let common = Arc::new(Common { wake: event()?, backed, fallen: Mutex::default() });
        let transform = Arc::new(transform);
        let only_upkeep = |urgency, _: &Work| if urgency == Urgency::Upkeep { Verdict::Take } else { Verdict::Skip };
        let upkeep = Workers::spawn(&desk, &device, &transform, 1, only_upkeep)?;
        let mut rung = Self { desk: Arc::clone(&desk), common: Arc::clone(&common), registered, upkeep: Some(upkeep), thread: None, proof };
        let mut worker = Worker {
            ring,
            file,
            registered,
            memory,
            desk,
            common,
            transform,
            _device: device,
            flights: HashMap::new(),
            jobs: HashMap::new(),
            finished: Vec::new(),
            next_flight: 0,
            wake_armed: false,
            load: Load::default(),
        };
        rung.thread = Some(thread::Builder::new().name("spillway-uring".into()).spawn(move || worker.run())?);
        Ok(rung)
    }
}

impl Rung for Uring {
    fn desk(&self) -> &Desk {
        &self.desk
    }

    fn in_flight_bytes(&self) -> u64 {
        IN_FLIGHT_BYTES as u64
    }

    fn kind(&self) -> RungKind {
        if self.registered && lock(&self.common.fallen).is_none() { RungKind::RegisteredUring } else { RungKind::Uring }
    }

    fn wake(&self, urgency: Urgency) {
        match urgency {
            Urgency::Upkeep => self.desk.notify(),
            _ => ring(&self.common.wake),
        }
    }

    fn cover(&self, base: *mut u8, len: usize) {
        if self.registered && self.common.backed.1.load(Ordering::Relaxed) != len {
            self.common.backed.0.store(base as usize, Ordering::Relaxed);
            self.common.backed.1.store(len, Ordering::Release);
            ring(&self.common.wake);
        }
    }

    fn fallen(&self) -> Option<Refusal> {
        lock(&self.common.fallen).clone()
    }

    fn proof_pages(&mut self) -> &mut PageBuffer {
        &mut self.proof
    }
}

impl Drop for Uring {
    fn drop(&mut self) {
        self.desk.close();
        ring(&self.common.wake);
        self.upkeep = None;
        if let Some(thread) = self.thread.take() {
            // A panic was a bug of the thread's; its ring is closed either way.
            let _ = thread.join();
        }
    }
}

/// What is registered: (first address, bytes, number in the kernel's table), by address.
#[derive(Debug, Default)]
struct Memory {
    buffers: Vec<(usize, usize, u16)>,
    /// Of the arena.
    arena_bytes: usize,
}

impl Memory {
    fn add(&mut self, ring: &IoUring, start: usize, len: usize) -> io::Result<()> {
        let number = self.buffers.len() as u32;
        if number >= BUFFERS_MAX {
            return Err(io::Error::other("the kernel's table is full"));
        }
        let buffer = libc::iovec { iov_base: start as *mut libc::c_void, iov_len: len };
        // SAFETY: the proof's pages and the arena's mapping outlive the rung, and the ring is closed with the rung.
        unsafe { ring.submitter().register_buffers_update(number, &[buffer], None) }?;
        let at = self.buffers.partition_point(|(other, ..)| *other < start);
        self.buffers.insert(at, (start, len, number as u16));
        Ok(())
    }

    fn number_of(&self, start: usize, len: usize) -> Option<u16> {
        let before = self.buffers.partition_point(|(other, ..)| *other <= start);
        let (first, bytes, number) = *self.buffers.get(before.checked_sub(1)?)?;
        (start + len <= first + bytes).then_some(number)
    }
}

/// One transfer that the kernel has.
#[derive(Debug)]
struct Flight {
    token: u64,
    /// Which page of a scan job.
    part: usize,
    at: *mut u8,
    len: usize,
    moved: usize,
    offset: u64,
    is_write: bool,
}

#[derive(Debug)]
enum Kind {
    Read {
        into: *mut u8,
        len: usize,
        offset: u64,
    },
    /// Bytes changed on their way out; the kernel reads them until the write is over.
    Write {
        _bounce: Option<PageBuffer>,
    },
    Pages {
        offsets: Vec<u64>,
        buffer: PageBuffer,
    },
}

#[derive(Debug)]
struct Begun {
    urgency: Urgency,
    kind: Kind,
    bytes: usize,
    left: usize,
    faults: Vec<Option<IoFault>>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Load {
    slots: usize,
    bytes: usize,
    writes: usize,
    write_bytes: usize,
    scans: usize,
}

impl Load {
    fn judge(&self, urgency: Urgency, work: &Work) -> Verdict {
        let bytes = bytes_of(work);
        let has_room = self.slots < DEPTH && (self.slots == 0 || self.bytes + bytes <= IN_FLIGHT_BYTES);
        match urgency {
            Urgency::Upkeep => Verdict::Skip,
            Urgency::Scan if self.scans < SCAN_DEPTH => Verdict::Take,
            Urgency::Write if has_room && self.leaves_room_for_reads(bytes) => Verdict::Take,
            Urgency::Scan | Urgency::Write => Verdict::Skip,
            Urgency::Demand | Urgency::Promotion if has_room => Verdict::Take,
            Urgency::Demand | Urgency::Promotion => Verdict::Hold,
        }
    }

    /// Of slots and of bytes, whichever are scarcer.
    fn leaves_room_for_reads(&self, bytes: usize) -> bool {
        self.writes < BACKGROUND_DEPTH && (self.writes == 0 || self.write_bytes + bytes <= IN_FLIGHT_BYTES / DEPTH * BACKGROUND_DEPTH)
    }

    fn change(&mut self, urgency: Urgency, bytes: usize, by: fn(usize, usize) -> usize) {
        if urgency == Urgency::Scan {
            self.scans = by(self.scans, 1);
            return;
        }
        self.slots = by(self.slots, 1);
        self.bytes = by(self.bytes, bytes);
        if urgency == Urgency::Write {
            self.writes = by(self.writes, 1);
            self.write_bytes = by(self.write_bytes, bytes);
        }
    }
}

fn bytes_of(work: &Work) -> usize {
    match work {
        Work::Read { len, .. } | Work::Write { len, .. } => *len,
        _ => 0,
    }
}

/// The ring's thread.
struct Worker<T> {
    ring: IoUring,
    file: RawFd,
    registered: bool,
    memory: Memory,
    desk: Arc<Desk>,
    common: Arc<Common>,
    transform: Arc<T>,
    /// Keeps `file` open.
    _device: Arc<dyn Device>,
    flights: HashMap<u64, Flight>,
    jobs: HashMap<u64, Begun>,
    /// Over for the kernel, not yet for the owner.
    finished: Vec<(u64, Begun)>,
    next_flight: u64,
    wake_armed: bool,
    load: Load,
}

// SAFETY: the pointers name arena memory as in Work, or memory that the same Begun owns.
unsafe impl<T: Send + Sync> Send for Worker<T> {}

impl<T: Transform> Worker<T> {
    fn run(&mut self) {
        loop {
            let is_over = self.begin_jobs();
            // Behind what can begin: pinning an extent takes milliseconds, and all of a successor's arena is backed at once.
            let has_more = self.register_extent();
            if is_over && self.jobs.is_empty() && self.finished.is_empty() {
                return self.let_go();
            }
            self.arm_wake();
            // With results in hand the next I/Os start first: the device works while this thread digests.
            let wanted = usize::from(self.finished.is_empty() && !has_more);
            match self.ring.submit_and_wait(wanted) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => thread::sleep(PAUSE),
                _ => {}
            }
            self.hand_over();
            self.reap();
        }
    }

    /// Whoever drops the store may unmount its volume at once; a ring that is only closed lets go of its file some time later.
    fn let_go(&self) {
        if self.registered {
            // A refusal leaves it to the closing.
            let _ = self.ring.submitter().unregister_files();
            let _ = self.ring.submitter().unregister_buffers();
        }
    }

    /// Of what was backed since the last time, one extent; whether there is more. A refusal is final: pinned memory is limited
    /// (RLIMIT_MEMLOCK), and I/O works without.
    fn register_extent(&mut self) -> bool {
        let len = self.common.backed.1.load(Ordering::Acquire);
        let base = self.common.backed.0.load(Ordering::Relaxed);
        if !self.registered || len <= self.memory.arena_bytes || lock(&self.common.fallen).is_some() {
            return false;
        }
        // A slot lies in one extent.
        let end = len / EXTENT_BYTES as usize * EXTENT_BYTES as usize;
        if self.memory.arena_bytes >= end {
            return false;
        }
        if let Err(error) = self.memory.add(&self.ring, base + self.memory.arena_bytes, EXTENT_BYTES as usize) {
            let why = format!("registering the arena, {} MiB of {} MiB done: {error}", self.memory.arena_bytes >> 20, len >> 20);
            *lock(&self.common.fallen) = Some(Refusal { rung: RungKind::RegisteredUring, why });
            return false;
        }
        self.memory.arena_bytes += EXTENT_BYTES as usize;
        self.memory.arena_bytes < end
    }

    /// True when nothing will ever be queued again.
    fn begin_jobs(&mut self) -> bool {
        loop {
            let load = self.load;
            let (found, is_over) = self.desk.begin(|urgency, work| load.judge(urgency, work));
            let Some((urgency, job)) = found else { return is_over };
            self.begin(urgency, job);
        }
    }

    fn begin(&mut self, urgency: Urgency, job: Job) {
        let bytes = bytes_of(&job.work);
        self.load.change(urgency, bytes, |sum, one| sum + one);
        let token = job.token;
        let mut flights = Vec::new();
        let kind = match job.work {
            Work::Read { into, len, offset } => {
                flights.push(Flight { token, part: 0, at: into, len, moved: 0, offset, is_write: false });
                Kind::Read { into, len, offset }
            }
            Work::Write { from, len, offset } => {
                // SAFETY: the submitter keeps the buffer until this job is done.
                let bounce = match unsafe { self.transform.outbound(from, len, offset) } {
                    Ok(bounce) => bounce,
                    Err(fault) => {
                        return self.finish(
                            token,
                            Begun { urgency, kind: Kind::Write { _bounce: None }, bytes, left: 0, faults: vec![Some(fault)] },
                        );
                    }
                };
                let (at, len) = bounce.as_ref().map_or((from, len), |bounce| (bounce.as_ptr(), bounce.len()));
                flights.push(Flight { token, part: 0, at: at.cast_mut(), len, moved: 0, offset, is_write: true });
                Kind::Write { _bounce: bounce }
            }
            Work::ReadPages { offsets } => {
                let mut buffer = PageBuffer::new(offsets.len());
                for (part, offset) in offsets.iter().copied().enumerate() {
                    let at = buffer.page_mut(part).as_mut_ptr();
                    flights.push(Flight { token, part, at, len: PAGE_BYTES as usize, moved: 0, offset, is_write: false });
                }
                Kind::Pages { offsets, buffer }
            }
            // Upkeep, which is never taken here.
            work => unreachable!("{work:?} is for the thread beside the ring"),
        };
        let begun = Begun { urgency, kind, bytes, left: flights.len(), faults: vec![None; flights.len()] };
        if flights.is_empty() {
            return self.finish(token, begun);
        }
        self.jobs.insert(token, begun);
        flights.into_iter().for_each(|flight| self.launch(flight));
    }

    fn launch(&mut self, flight: Flight) {
        self.next_flight += 1;
        let entry = self.entry_of(&flight).user_data(self.next_flight);
        self.flights.insert(self.next_flight, flight);
        self.push(&entry);
    }

    fn entry_of(&self, flight: &Flight) -> squeue::Entry {
        // SAFETY: moved < len, so the address stays inside the buffer.
        let at = unsafe { flight.at.add(flight.moved) };
        let len = (flight.len - flight.moved) as u32;
        let offset = flight.offset + flight.moved as u64;
        let number = if self.registered { self.memory.number_of(at as usize, len as usize) } else { None };
        macro_rules! over {
            ($file:expr) => {
                match (number, flight.is_write) {
                    (Some(number), false) => opcode::ReadFixed::new($file, at, len, number).offset(offset).build(),
                    (Some(number), true) => opcode::WriteFixed::new($file, at, len, number).offset(offset).build(),
                    (None, false) => opcode::Read::new($file, at, len).offset(offset).build(),
                    (None, true) => opcode::Write::new($file, at, len).offset(offset).build(),
                }
            };
        }
        if self.registered { over!(types::Fixed(0)) } else { over!(types::Fd(self.file)) }
    }

    fn push(&mut self, entry: &squeue::Entry) {
        loop {
            // SAFETY: the memory that the entry names stays valid until its completion: the arena by the submitter's word, all else is held in `jobs`.
            if unsafe { self.ring.submission().push(entry) }.is_ok() {
                return;
            }
            // Full: the kernel takes some.
            if self.ring.submit().is_err() {
                thread::sleep(PAUSE);
            }
        }
    }

    fn arm_wake(&mut self) {
        if !self.wake_armed {
            let entry = opcode::PollAdd::new(types::Fd(self.common.wake.as_fd().as_raw_fd()), libc::POLLIN as u32).build().user_data(WAKE);
            self.push(&entry);
            self.wake_armed = true;
        }
    }

    fn reap(&mut self) {
        let seen: Vec<(u64, i32)> = self.ring.completion().map(|entry| (entry.user_data(), entry.result())).collect();
        for (number, result) in seen {
            if number == WAKE {
                self.wake_armed = false;
                let _ = rustix::io::read(&self.common.wake, &mut [0; 8]);
            } else if let Some(flight) = self.flights.remove(&number) {
                self.land(flight, result);
            }
        }
    }

    fn land(&mut self, mut flight: Flight, result: i32) {
        let fault = match result {
            // The kernel was interrupted or short of something; as for a call of pread.
            errno if errno == -libc::EINTR || errno == -libc::EAGAIN => return self.launch(flight),
            errno if errno < 0 => Some(IoFault::from(io::Error::from_raw_os_error(-errno))),
            0 => Some(IoFault::Short),
            count => {
                flight.moved += count as usize;
                if flight.moved < flight.len {
                    return self.launch(flight);
                }
                None
            }
        };
        let Some(begun) = self.jobs.get_mut(&flight.token) else { return };
        begun.faults[flight.part] = fault;
        begun.left -= 1;
        if begun.left == 0
            && let Some(begun) = self.jobs.remove(&flight.token)
        {
            self.finish(flight.token, begun);
        }
    }

    fn finish(&mut self, token: u64, begun: Begun) {
        self.load.change(begun.urgency, begun.bytes, |sum, one| sum - one);
        self.finished.push((token, begun));
    }

    fn hand_over(&mut self) {
        for (token, begun) in std::mem::take(&mut self.finished) {
            let plain = begun.faults.iter().flatten().next().map_or(Ok(()), |fault| Err(*fault));
            let outcome = match begun.kind {
                Kind::Read { into, len, offset } => Outcome::Slot(plain.and_then(|()| arrived(&*self.transform, into, len, offset))),
                Kind::Write { .. } => Outcome::Plain(plain),
                Kind::Pages { offsets, buffer } => {
                    let page = |(part, offset): (usize, u64)| match begun.faults[part] {
                        Some(fault) => (offset, Err(fault)),
                        None => (offset, Ok(Box::new(*buffer.page(part)))),
                    };
                    Outcome::Pages(offsets.into_iter().enumerate().map(page).collect())
                }
            };
            self.desk.end(token, outcome);
        }
    }
}
