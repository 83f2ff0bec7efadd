//! The rung that runs everywhere: threads that block in `pread` and `pwrite`, one I/O each.

use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use super::job::{Desk, Outcome, Pages, Urgency, Verdict, Work};
use super::rung::{Rung, RungKind, stamp};
use super::{Device, IoFault, PageBuffer, Transform, read_full, write_full};
use crate::checksum::{self, Digest};
use crate::header::Page;
use crate::layout::PAGE_BYTES;

/// Threads that serve a desk, or one kind of job of it. Dropping them waits for what they have begun; the desk must be closed before.
#[derive(Debug)]
pub(super) struct Workers(Vec<JoinHandle<()>>);

impl Workers {
    pub fn spawn<T: Transform>(
        desk: &Arc<Desk>,
        device: &Arc<dyn Device>,
        transform: &Arc<T>,
        count: usize,
        judge: fn(Urgency, &Work) -> Verdict,
    ) -> io::Result<Self> {
        let mut workers = Self(Vec::new());
        for number in 0..count {
            let (served, device, transform) = (Arc::clone(desk), Arc::clone(device), Arc::clone(transform));
            let work = move || {
                while let Some(job) = served.wait_to_begin(judge) {
                    served.end(job.token, carry_out(&*device, &*transform, job.work));
                }
            };
            let spawned = thread::Builder::new().name(format!("spillway-io-{number}")).spawn(work);
            workers.0.push(spawned.inspect_err(|_| desk.close())?);
        }
        Ok(workers)
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        for thread in self.0.drain(..) {
            // A panic was a bug of its thread's; nothing is left to undo here.
            let _ = thread.join();
        }
    }
}

/// The rung.
#[derive(Debug)]
pub(super) struct Threads {
    desk: Arc<Desk>,
    workers: Option<Workers>,
    proof: PageBuffer,
}

impl Threads {
    pub fn new<T: Transform>(device: Arc<dyn Device>, transform: T, threads: usize) -> io::Result<Self> {
        let desk = Arc::new(Desk::new()?);
        let workers = Workers::spawn(&desk, &device, &Arc::new(transform), threads, |_, _| Verdict::Take)?;
        Ok(Self { desk, workers: Some(workers), proof: PageBuffer::new(2) })
    }
}

impl Rung for Threads {
    fn desk(&self) -> &Desk {
        &self.desk
    }

    fn kind(&self) -> RungKind {
        RungKind::Threads
    }

    fn wake(&self, _: Urgency) {
        self.desk.notify();
    }

    fn proof_pages(&mut self) -> &mut PageBuffer {
        &mut self.proof
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.desk.close();
        self.workers = None;
    }
}

/// Do it on this thread.
fn carry_out<T: Transform>(device: &dyn Device, transform: &T, work: Work) -> Outcome {
    Outcome::Plain(match work {
        Work::Read { into, len, offset } => return Outcome::Slot(read_slot(device, transform, into, len, offset)),
        Work::Write { from, len, offset } => write_slot(device, transform, from, len, offset),
        Work::WritePage { page, offset } => write_page(device, &page, offset),
        Work::Format { zero, table, table_offset } => format(device, zero, &table, table_offset),
        Work::Probe { offset, stamp } => probe(device, offset, stamp),
        Work::Sync => device.sync().map_err(IoFault::from),
        Work::ReadPages { offsets } => return Outcome::Pages(read_pages(device, offsets)),
    })
}

fn read_slot<T: Transform>(device: &dyn Device, transform: &T, into: *mut u8, len: usize, offset: u64) -> Result<Digest, IoFault> {
    // SAFETY: the submitter keeps the buffer until this job is done.
    unsafe { read_full(device, into, len, offset) }?;
    arrived(transform, into, len, offset)
}

/// Bring a slot that lies in the arena now into its own form; the digest of its payload and padding.
pub(super) fn arrived<T: Transform>(transform: &T, into: *mut u8, len: usize, offset: u64) -> Result<Digest, IoFault> {
    // SAFETY: the submitter keeps the buffer until its job is done, and it was just written.
    unsafe { transform.inbound(into, len, offset) }?;
    let header = len.min(PAGE_BYTES as usize);
    // SAFETY: header <= len, so the address stays inside the buffer.
    let body = unsafe { into.add(header) };
    // SAFETY: len - header bytes of the buffer lie behind it. An engine may write there meanwhile; that changes the digest and nothing else, as
    // digests are compared, and nothing is indexed or decided by content. A page that is gone is the SIGBUS guard's, as for every access to the arena.
    Ok(checksum::payload(unsafe { std::slice::from_raw_parts(body, len - header) }))
}

fn write_slot<T: Transform>(device: &dyn Device, transform: &T, from: *const u8, len: usize, offset: u64) -> Result<(), IoFault> {
    // SAFETY: the submitter keeps the buffer until this job is done.
    match unsafe { transform.outbound(from, len, offset) }? {
        // SAFETY: the bounce buffer lives until the call has returned.
        Some(bounce) => unsafe { write_full(device, bounce.as_ptr(), bounce.len(), offset) },
        // SAFETY: as above.
        None => unsafe { write_full(device, from, len, offset) },
    }
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

fn read_pages(device: &dyn Device, offsets: Vec<u64>) -> Pages {
    let mut buffer = PageBuffer::new(1);
    let mut read = |offset| (offset, read_page(device, &mut buffer, offset).map(|()| Box::new(*buffer.page(0))));
    offsets.into_iter().map(&mut read).collect()
}

/// Write a page that was never there before, read it back, compare.
pub(crate) fn probe(device: &dyn Device, offset: u64, number: u64) -> Result<(), IoFault> {
    let mut page = [0; PAGE_BYTES as usize];
    stamp(&mut page, number);
    write_page(device, &page, offset)?;
    let mut buffer = PageBuffer::new(1);
    read_page(device, &mut buffer, offset)?;
    if *buffer.page(0) == page { Ok(()) } else { Err(IoFault::Device(libc::EIO)) }
}
