//! The NVMe store over devices that fail, hang, tear and interrupt: the tier goes away and comes back, buffers stay the kernel's as long as it has them.

mod nvme_kit;

use std::io;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use nvme_kit::*;
use spillway_engine::io::{Device, FileDevice, PageBuffer};
use spillway_engine::nvme::{Completion, IoFault, NvmeConfig, NvmeStore, Urgency};

const STRIDE_PAGES: usize = STRIDE as usize / PAGE;

/// What goes wrong from now on.
#[derive(Clone, Debug, Default)]
struct Faults {
    read_errno: Option<i32>,
    write_errno: Option<i32>,
    sync_errno: Option<i32>,
    /// Reads of more than a page block until this is cleared.
    hang_reads: bool,
    /// Writes of more than a page block until this is cleared.
    hang_writes: bool,
    /// Bytes of one transfer at most.
    short: Option<usize>,
    /// Every other call is interrupted first.
    interrupt: bool,
    /// Writes of more than a page reach the disk only up to here, and nobody is told.
    torn_at: Option<usize>,
}

#[derive(Debug, Default)]
struct State {
    faults: Faults,
    calls: u64,
    hanging: usize,
}

#[derive(Debug)]
struct FaultyDevice {
    file: FileDevice,
    state: Arc<(Mutex<State>, Condvar)>,
}

impl FaultyDevice {
    /// Hang, interrupt or fail as told; else what goes wrong with the transfer itself.
    fn enter(&self, len: usize, is_write: bool) -> io::Result<Faults> {
        let (state, wake) = &*self.state;
        let mut state = state.lock().expect("no test thread panics with it");
        state.calls += 1;
        if state.faults.interrupt && state.calls % 2 == 1 {
            return Err(io::Error::from_raw_os_error(libc::EINTR));
        }
        state.hanging += 1;
        while len > PAGE && (if is_write { state.faults.hang_writes } else { state.faults.hang_reads }) {
            state = wake.wait(state).expect("no test thread panics with it");
        }
        state.hanging -= 1;
        match if is_write { state.faults.write_errno } else { state.faults.read_errno } {
            Some(errno) => Err(io::Error::from_raw_os_error(errno)),
            None => Ok(state.faults.clone()),
        }
    }
}

impl Device for FaultyDevice {
    fn len_bytes(&self) -> u64 {
        self.file.len_bytes()
    }

    unsafe fn read_at(&self, into: *mut u8, len: usize, offset: u64) -> io::Result<usize> {
        let faults = self.enter(len, false)?;
        // SAFETY: as the caller vouches, for no more bytes.
        unsafe { self.file.read_at(into, faults.short.unwrap_or(len).min(len), offset) }
    }

    unsafe fn write_at(&self, from: *const u8, len: usize, offset: u64) -> io::Result<usize> {
        let faults = self.enter(len, true)?;
        if let Some(at) = faults.torn_at.filter(|_| len > PAGE) {
            // SAFETY: as the caller vouches, for no more bytes.
            return unsafe { self.file.write_at(from, at.min(len), offset) }.map(|_| len);
        }
        // SAFETY: as the caller vouches, for no more bytes.
        unsafe { self.file.write_at(from, faults.short.unwrap_or(len).min(len), offset) }
    }

    fn zero(&self, offset: u64, len: u64) -> io::Result<()> {
        self.file.zero(offset, len)
    }

    fn sync(&self) -> io::Result<()> {
        match self.state.0.lock().expect("no test thread panics with it").faults.sync_errno {
            Some(errno) => Err(io::Error::from_raw_os_error(errno)),
            None => self.file.sync(),
        }
    }
}

/// The test's hand on a faulty device.
struct Hand(Arc<(Mutex<State>, Condvar)>);

impl Hand {
    fn set(&self, faults: Faults) {
        self.0.0.lock().expect("no test thread panics with it").faults = faults;
        self.0.1.notify_all();
    }

    fn heal(&self) {
        self.set(Faults::default());
    }

    fn calls(&self) -> u64 {
        self.0.0.lock().expect("no test thread panics with it").calls
    }

    fn wait_for_hanging(&self) {
        let end = Instant::now() + Duration::from_secs(20);
        while self.0.0.lock().expect("no test thread panics with it").hanging == 0 {
            assert!(Instant::now() < end, "waited for an I/O to hang");
            std::thread::sleep(Duration::from_micros(200));
        }
    }
}

/// Releases what hangs, so that a failed test ends.
impl Drop for Hand {
    fn drop(&mut self) {
        if let Ok(mut state) = self.0.0.lock() {
            state.faults = Faults::default();
        }
        self.0.1.notify_all();
    }
}

fn open_faulty(dir: &Path, config: &NvmeConfig) -> (Kit, Hand) {
    let state = Arc::new((Mutex::new(State::default()), Condvar::new()));
    let for_device = Arc::clone(&state);
    let (store, _) = NvmeStore::open_on(dir, config, |file| Arc::new(FaultyDevice { file, state: for_device })).expect("a store");
    (Kit { store, token: 0, seen: Vec::new() }, Hand(state))
}

fn impatient() -> NvmeConfig {
    NvmeConfig { deadline: Duration::from_millis(50), ..config(65) }
}

fn breaker(kit: &mut Kit) -> &'static str {
    kit.wait("the breaker", |completion| match completion {
        Completion::Breaker { reason } => Some(*reason),
        _ => None,
    })
}

fn closed(kit: &mut Kit) {
    kit.wait("the breaker to close", |completion| matches!(completion, Completion::BreakerClosed).then_some(()));
}

#[test]
fn a_failing_read_opens_the_breaker_and_a_probe_closes_it() {
    let dir = disk_folder();
    let (mut kit, hand) = open_faulty(dir.path(), &config(65));
    let slot = kit.put(1, STRIDE);
    hand.set(Faults { read_errno: Some(libc::EIO), ..Faults::default() });
    let mut buffer = PageBuffer::new(STRIDE_PAGES);
    let token = kit.submit_read(slot, &mut buffer);
    assert_eq!(kit.arrived(token), Err(IoFault::Device(libc::EIO)));
    assert_eq!(breaker(&mut kit), "io_error");
    let refused_at = Instant::now();
    let token = kit.submit_read(slot, &mut buffer);
    assert_eq!(kit.arrived(token), Err(IoFault::Unavailable));
    assert!(refused_at.elapsed() < Duration::from_millis(200), "nobody waits for a broken device");
    let before = hand.calls();
    while hand.calls() < before + 2 {
        assert!(refused_at.elapsed() < Duration::from_secs(20), "waited for a probe");
        kit.store.completions(&mut kit.seen);
    }
    assert!(kit.seen.is_empty(), "a probe that fails closes nothing: {:?}", kit.seen);
    hand.heal();
    closed(&mut kit);
    assert!(kit.holds(slot, 1, STRIDE));
    assert_eq!(kit.store.stats().breaker_opened, 1);
}

#[test]
fn each_fault_has_its_reason() {
    for (errno, reason) in [(libc::EIO, "io_error"), (libc::ENOSPC, "no_space"), (libc::EROFS, "read_only")] {
        let dir = disk_folder();
        let (mut kit, hand) = open_faulty(dir.path(), &config(65));
        kit.put(1, STRIDE);
        hand.set(Faults { write_errno: Some(errno), ..Faults::default() });
        let slot = kit.store.alloc(STRIDE).expect("a free slot");
        let chunk = chunk(2, STRIDE, slot, 2);
        let token = kit.submit_write(slot, &chunk);
        assert_eq!(kit.written(token), Err(IoFault::Device(errno)));
        assert_eq!(breaker(&mut kit), reason);
    }
}

#[test]
fn a_failing_sync_opens_the_breaker() {
    let dir = disk_folder();
    let (mut kit, hand) = open_faulty(dir.path(), &config(65));
    kit.put(1, STRIDE);
    hand.set(Faults { sync_errno: Some(libc::EIO), ..Faults::default() });
    kit.sync();
    assert_eq!(breaker(&mut kit), "io_error");
    hand.heal();
    closed(&mut kit);
}

#[test]
fn a_hanging_read_is_told_early_and_completed_late() {
    let dir = disk_folder();
    let (mut kit, hand) = open_faulty(dir.path(), &impatient());
    let slot = kit.put(1, STRIDE);
    hand.set(Faults { hang_reads: true, ..Faults::default() });
    let mut buffer = PageBuffer::new(STRIDE_PAGES);
    let submitted_at = Instant::now();
    let hung = kit.submit_read(slot, &mut buffer);
    let late = kit.wait("the notice", |completion| match completion {
        Completion::Late { token } => Some(*token),
        _ => None,
    });
    let told_after = submitted_at.elapsed();
    assert_eq!(late, hung);
    assert!((Duration::from_millis(50)..Duration::from_secs(2)).contains(&told_after), "{told_after:?}");
    assert_eq!(breaker(&mut kit), "timeout");
    std::thread::sleep(Duration::from_millis(700));
    kit.store.completions(&mut kit.seen);
    assert!(kit.seen.is_empty(), "the buffer is the kernel's and the breaker stays open: {:?}", kit.seen);
    hand.heal();
    kit.arrived(hung).expect("it came in the end");
    assert!(same(&buffer, &chunk(1, STRIDE, slot, 1)));
    closed(&mut kit);
}

#[test]
fn queued_work_is_given_back_untouched_when_the_breaker_opens() {
    let dir = disk_folder();
    let (mut kit, hand) = open_faulty(dir.path(), &NvmeConfig { io_threads: 1, ..impatient() });
    let slot = kit.put(1, STRIDE);
    hand.set(Faults { hang_writes: true, ..Faults::default() });
    let other = kit.store.alloc(STRIDE).expect("a free slot");
    let payload = chunk(2, STRIDE, other, 2);
    let hung = kit.submit_write(other, &payload);
    hand.wait_for_hanging();
    let mut buffer = PageBuffer::new(STRIDE_PAGES);
    let queued = kit.submit_read(slot, &mut buffer);
    assert_eq!(breaker(&mut kit), "timeout");
    assert_eq!(kit.arrived(queued), Err(IoFault::Unavailable));
    assert!(same(&buffer, &PageBuffer::new(STRIDE_PAGES)));
    hand.heal();
    kit.written(hung).expect("it went in the end");
    closed(&mut kit);
    assert!(kit.holds(other, 2, STRIDE) && kit.holds(slot, 1, STRIDE));
}

#[test]
fn short_and_interrupted_transfers_are_whole_in_the_end() {
    let dir = disk_folder();
    let (mut kit, hand) = open_faulty(dir.path(), &config(65));
    hand.set(Faults { short: Some(3 * PAGE), interrupt: true, ..Faults::default() });
    let slot = kit.put(5, STRIDE);
    assert!(kit.holds(slot, 5, STRIDE));
    hand.heal();
    assert!(kit.holds(slot, 5, STRIDE));
}

#[test]
fn a_torn_write_is_found_by_its_checksum() {
    let dir = disk_folder();
    let (mut kit, hand) = open_faulty(dir.path(), &config(65));
    hand.set(Faults { torn_at: Some(9 * PAGE), ..Faults::default() });
    let slot = kit.put(5, STRIDE);
    hand.heal();
    drop(kit);
    let (mut kit, _) = open(dir.path(), &config(65));
    assert_eq!(kit.scan().0, [slot], "the header went");
    assert!(!kit.holds(slot, 5, STRIDE), "the payload did not");
}

#[test]
fn memory_that_is_gone_does_not_blame_the_device() {
    let dir = disk_folder();
    let (mut kit, _hand) = open_faulty(dir.path(), &config(65));
    let slot = kit.put(1, STRIDE);
    let token = kit.next_token();
    // The first page of the address space is never mapped: what the kernel sees of a truncated arena.
    kit.store.submit_read(Urgency::Demand, token, slot, std::ptr::without_provenance_mut(PAGE), STRIDE as usize);
    assert_eq!(kit.arrived(token), Err(IoFault::Memory));
    assert!(kit.holds(slot, 1, STRIDE), "no breaker");
}

#[test]
fn a_quarantine_waits_for_the_device_to_come_back() {
    let dir = disk_folder();
    let (mut kit, hand) = open_faulty(dir.path(), &config(65));
    let slot = kit.put(1, STRIDE);
    hand.set(Faults { read_errno: Some(libc::EIO), write_errno: Some(libc::EIO), ..Faults::default() });
    let mut buffer = PageBuffer::new(STRIDE_PAGES);
    let token = kit.submit_read(slot, &mut buffer);
    assert!(kit.arrived(token).is_err());
    assert_eq!(breaker(&mut kit), "io_error");
    let wanted = kit.next_token();
    kit.store.submit_quarantine(wanted, slot, STRIDE);
    assert_eq!(kit.store.stats().used_slots, 1);
    hand.heal();
    let result = kit.wait("the quarantine", |completion| match completion {
        Completion::Quarantined { token, result } if *token == wanted => Some(*result),
        _ => None,
    });
    assert_eq!(result, Ok(()));
    assert_eq!(kit.store.stats().used_slots, 0);
}

#[test]
fn a_scan_outlives_a_broken_device() {
    let dir = disk_folder();
    let (mut kit, _) = open(dir.path(), &config(65));
    let slots: Vec<u64> = (0..100).map(|seed| kit.put(seed, STRIDE)).collect();
    drop(kit);
    let (mut kit, hand) = open_faulty(dir.path(), &config(65));
    hand.set(Faults { read_errno: Some(libc::EIO), ..Faults::default() });
    kit.store.start_scan();
    assert_eq!(breaker(&mut kit), "io_error");
    hand.heal();
    kit.wait("the end of the scan", |completion| matches!(completion, Completion::ScanDone).then_some(()));
    let found = kit.seen.iter().filter(|completion| matches!(completion, Completion::Scanned { .. })).count();
    assert_eq!(found, slots.len(), "a page is given up only when it fails twice");
}

#[test]
fn a_new_extent_that_cannot_be_formatted_fails_its_writes_and_is_tried_again() {
    let dir = disk_folder();
    let (mut kit, hand) = open_faulty(dir.path(), &config(65));
    hand.set(Faults { sync_errno: Some(libc::EIO), ..Faults::default() });
    let slot = kit.store.alloc(STRIDE).expect("a free slot");
    let payload = chunk(1, STRIDE, slot, 1);
    let token = kit.submit_write(slot, &payload);
    assert_eq!(kit.written(token), Err(IoFault::Device(libc::EIO)));
    assert_eq!(breaker(&mut kit), "io_error");
    hand.heal();
    closed(&mut kit);
    let token = kit.submit_write(slot, &payload);
    kit.written(token).expect("a healed device");
    kit.sync();
    drop(kit);
    let (mut kit, _) = open(dir.path(), &config(65));
    assert_eq!(kit.scan().0, [slot], "its table page is there");
}

#[test]
fn dropping_the_store_waits_for_what_the_kernel_has() {
    let dir = disk_folder();
    let (mut kit, hand) = open_faulty(dir.path(), &config(65));
    let slot = kit.put(3, STRIDE);
    hand.set(Faults { hang_reads: true, ..Faults::default() });
    let mut buffer = PageBuffer::new(STRIDE_PAGES);
    kit.submit_read(slot, &mut buffer);
    hand.wait_for_hanging();
    let healer = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(100));
        hand.heal();
    });
    drop(kit);
    assert!(same(&buffer, &chunk(3, STRIDE, slot, 3)), "the read was over when drop returned");
    healer.join().expect("the healer");
}
