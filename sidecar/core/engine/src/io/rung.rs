//! A way of doing I/O, and the ladder of them: the best one that proves itself on the volume is used, and why no better one was is told.

use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::job::{Desk, Done, Job, Outcome, Urgency, Work};
use super::threads::Threads;
use super::uring::Uring;
use super::{Device, IoFault, PageBuffer, Transform};
use crate::clock;
use crate::layout::PAGE_BYTES;

/// A page on a device that works takes a thousandth of it.
const PROOF_PATIENCE: Duration = Duration::from_secs(10);

/// The ways, the better ones first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RungKind {
    /// io_uring with the file and the arena registered.
    RegisteredUring,
    /// io_uring.
    Uring,
    /// Threads that block.
    Threads,
}

impl RungKind {
    const ALL: [Self; 3] = [Self::RegisteredUring, Self::Uring, Self::Threads];

    /// A stable word.
    pub fn name(self) -> &'static str {
        match self {
            Self::RegisteredUring => "io_uring_registered",
            Self::Uring => "io_uring",
            Self::Threads => "threads",
        }
    }
}

/// A better rung that is not used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Which.
    pub rung: RungKind,
    /// What was tried and what the kernel said.
    pub why: String,
}

/// A way of doing I/O. It has workers of its own; every method returns at once. Dropping it discards what has not begun and waits for the rest.
///
/// A result is given only when the kernel has let go of the buffer, however late that is.
pub(crate) trait Rung: Send + std::fmt::Debug {
    /// Queues, what runs, results.
    fn desk(&self) -> &Desk;

    /// What it is now; it may turn out less than it was proved to be.
    fn kind(&self) -> RungKind;

    /// Tell whoever does such jobs that one is there.
    fn wake(&self, urgency: Urgency);

    /// Shared memory that I/O will be for: from `base` on, `len` bytes are backed. Called again as `len` grows.
    fn cover(&self, _base: *mut u8, _len: usize) {}

    /// Why it is less than it was proved to be.
    fn fallen(&self) -> Option<Refusal> {
        None
    }

    /// Bytes that it may have given the device before an I/O: that I/O takes as much longer.
    fn in_flight_bytes(&self) -> u64 {
        0
    }

    /// Two pages that it can move as it moves slots.
    fn proof_pages(&mut self) -> &mut PageBuffer;

    /// Queue a job.
    fn submit(&self, urgency: Urgency, job: Job) {
        self.desk().submit(urgency, job);
        self.wake(urgency);
    }

    /// Take back what nobody has begun; its buffers were never touched.
    fn take_queued(&self) -> Vec<Job> {
        self.desk().take_queued()
    }

    /// Jobs that nobody has begun.
    fn queued(&self, urgency: Urgency) -> usize {
        self.desk().queued(urgency)
    }

    /// Tokens of jobs that run longer than they may; each is named once.
    fn overdue(&self) -> Vec<u64> {
        self.desk().overdue()
    }

    /// Jobs that were overdue and still run.
    fn late_count(&self) -> usize {
        self.desk().late_count()
    }

    /// Readable while results wait: it wakes the plane.
    fn event_fd(&self) -> BorrowedFd<'_> {
        self.desk().event_fd()
    }

    /// Make `event_fd` readable although no result waits here.
    fn ring(&self) {
        self.desk().ring();
    }

    /// Results so far; `event_fd` is quiet afterwards.
    fn take_done(&self) -> Vec<Done> {
        self.desk().take_done()
    }
}

/// What the ladder needs to know.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms {
    /// Better ones are not tried.
    pub best: RungKind,
    /// The page cache is bypassed.
    pub is_direct: bool,
    /// Of the threads rung.
    pub threads: usize,
    /// A page of the volume that holds nothing.
    pub scratch_offset: u64,
}

/// The best rung that proves itself, and why each better one did not.
pub(crate) fn climb<T: Transform + Clone>(
    device: &Arc<dyn Device>,
    transform: T,
    terms: &Terms,
) -> io::Result<(Box<dyn Rung>, Vec<Refusal>)> {
    let mut refusals = Vec::new();
    for rung in RungKind::ALL {
        match attempt(rung, device, transform.clone(), terms) {
            Ok(found) => return Ok((found, refusals)),
            Err(error) if rung == RungKind::Threads => return Err(error),
            Err(error) => refusals.push(Refusal { rung, why: error.to_string() }),
        }
    }
    Err(io::ErrorKind::Unsupported.into())
}

fn attempt<T: Transform>(kind: RungKind, device: &Arc<dyn Device>, transform: T, terms: &Terms) -> io::Result<Box<dyn Rung>> {
    if kind < terms.best {
        return Err(io::Error::other("switched off"));
    }
    let rung: Box<dyn Rung> = match kind {
        RungKind::Threads => Box::new(Threads::new(Arc::clone(device), transform, terms.threads)?),
        // A buffered transfer is a copy on the thread that submits it: threads share that out, one ring does not.
        _ if !terms.is_direct => return Err(io::Error::other("only with O_DIRECT")),
        _ => Box::new(Uring::new(Arc::clone(device), transform, kind == RungKind::RegisteredUring)?),
    };
    prove(rung, terms.scratch_offset)
}

/// Write a page, read it back and compare, in the volume, by the rung itself.
fn prove(rung: Box<dyn Rung>, scratch_offset: u64) -> io::Result<Box<dyn Rung>> {
    // What never comes back must never be dropped either: the kernel may still write to it.
    let mut rung = ManuallyDrop::new(rung);
    let page_bytes = PAGE_BYTES as usize;
    let pages = rung.proof_pages();
    stamp(pages.page_mut(0), clock::now_ns() | 1);
    let from = pages.as_ptr();
    let into = pages.page_mut(1).as_mut_ptr();
    let allowance = PROOF_PATIENCE;
    let works =
        [Work::Write { from, len: page_bytes, offset: scratch_offset }, Work::Read { into, len: page_bytes, offset: scratch_offset }];
    for work in works {
        rung.submit(Urgency::Demand, Job { token: 0, work, allowance });
        let Some(done) = wait_for_one(&**rung) else { return Err(io::Error::from_raw_os_error(libc::ETIMEDOUT)) };
        let result = match done.outcome {
            Outcome::Plain(result) => result,
            Outcome::Slot(result) => result.map(|_| ()),
            Outcome::Pages(_) => Err(IoFault::Short),
        };
        if let Err(fault) = result {
            drop(ManuallyDrop::into_inner(rung));
            return Err(match fault {
                IoFault::Device(errno) => io::Error::from_raw_os_error(errno),
                fault => io::Error::other(fault),
            });
        }
    }
    let mut rung = ManuallyDrop::into_inner(rung);
    let pages = rung.proof_pages();
    match pages.page(0) == pages.page(1) {
        true => Ok(rung),
        false => Err(io::Error::other("what was read is not what was written")),
    }
}

fn wait_for_one(rung: &dyn Rung) -> Option<Done> {
    let end_ns = clock::now_ns() + PROOF_PATIENCE.as_nanos() as u64;
    loop {
        if let Some(done) = rung.take_done().pop() {
            return Some(done);
        }
        let left_ns = end_ns.saturating_sub(clock::now_ns());
        if left_ns == 0 {
            return None;
        }
        let timeout = Timespec { tv_sec: (left_ns / 1_000_000_000) as i64, tv_nsec: (left_ns % 1_000_000_000) as i64 };
        // A signal or an error only means an early look.
        let _ = poll(&mut [PollFd::new(&rung.event_fd(), PollFlags::IN)], Some(&timeout));
    }
}

/// Fill a page with what was never there before.
pub(super) fn stamp(page: &mut [u8], stamp: u64) {
    for (at, word) in page.chunks_exact_mut(8).enumerate() {
        word.copy_from_slice(&stamp.wrapping_mul(at as u64 + 1).to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileExt, OpenOptionsExt};

    use super::*;
    use crate::checksum;
    use crate::io::FileDevice;

    const PAGE: usize = PAGE_BYTES as usize;
    const MASK: u8 = 0x5a;

    /// Stands for a cipher: other bytes on the device than in the arena, depending on where they lie.
    #[derive(Clone, Copy, Debug)]
    struct Mask;

    impl Mask {
        fn of(offset: u64) -> u8 {
            MASK ^ (offset / PAGE_BYTES) as u8
        }
    }

    impl Transform for Mask {
        unsafe fn outbound(&self, from: *const u8, len: usize, offset: u64) -> Result<Option<PageBuffer>, IoFault> {
            let mut bounce = PageBuffer::new(len / PAGE);
            // SAFETY: the caller vouches for `from`; `bounce` has as many bytes, and nobody else sees it.
            unsafe { std::ptr::copy_nonoverlapping(from, bounce.as_mut_ptr(), len) };
            (0..len / PAGE).for_each(|page| bounce.page_mut(page).iter_mut().for_each(|byte| *byte ^= Self::of(offset)));
            Ok(Some(bounce))
        }

        unsafe fn inbound(&self, at: *mut u8, len: usize, offset: u64) -> Result<(), IoFault> {
            // SAFETY: the caller vouches for `at`.
            unsafe { std::slice::from_raw_parts_mut(at, len) }.iter_mut().for_each(|byte| *byte ^= Self::of(offset));
            Ok(())
        }
    }

    fn direct_device() -> (tempfile::TempDir, Arc<dyn Device>) {
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).expect("a folder on a disk");
        let path = dir.path().join("volume");
        let file = std::fs::OpenOptions::new().read(true).write(true).create(true).truncate(true).custom_flags(libc::O_DIRECT).open(path);
        let file = file.expect("a disk with O_DIRECT");
        file.set_len(64 * PAGE_BYTES).expect("room");
        (dir, Arc::new(FileDevice::new(file).expect("a device")))
    }

    #[test]
    fn every_rung_takes_what_leaves_the_arena_through_the_transform() {
        for best in RungKind::ALL {
            let (dir, device) = direct_device();
            let terms = Terms { best, is_direct: true, threads: 2, scratch_offset: 0 };
            let (rung, refusals) = climb(&device, Mask, &terms).expect("a rung");
            assert_eq!(rung.kind(), best, "{refusals:?}");
            let mut arena = PageBuffer::new(8);
            (0..8).for_each(|page| arena.page_mut(page).fill(page as u8));
            let (offset, len, allowance) = (4 * PAGE_BYTES, 8 * PAGE, Duration::from_secs(10));
            rung.submit(Urgency::Write, Job { token: 1, work: Work::Write { from: arena.as_ptr(), len, offset }, allowance });
            assert!(matches!(wait_for_one(&*rung).expect("an answer").outcome, Outcome::Plain(Ok(()))));
            assert!((0..8).all(|page| arena.page(page).iter().all(|byte| *byte == page as u8)), "engines read the slot meanwhile");
            let mut seen = vec![0; len];
            std::fs::File::open(dir.path().join("volume")).and_then(|file| file.read_exact_at(&mut seen, offset)).expect("the volume");
            assert!(seen.iter().enumerate().all(|(at, byte)| *byte == (at / PAGE) as u8 ^ Mask::of(offset)));
            let mut back = PageBuffer::new(8);
            rung.submit(Urgency::Demand, Job { token: 2, work: Work::Read { into: back.as_mut_ptr(), len, offset }, allowance });
            let Outcome::Slot(Ok(digest)) = wait_for_one(&*rung).expect("an answer").outcome else { panic!("a read") };
            assert!((0..8).all(|page| back.page(page) == arena.page(page)));
            let body: Vec<u8> = (1..8).flat_map(|page| *arena.page(page)).collect();
            assert_eq!(digest, checksum::payload(&body), "of what the arena holds");
        }
    }
}
