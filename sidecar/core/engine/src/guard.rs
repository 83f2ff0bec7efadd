//! The SIGBUS guard: an engine that truncates a shared file must not crash the sidecar.
//!
//! Touching a page of a mapping that the file no longer has raises SIGBUS. For a registered range the handler maps a zero page over the fault,
//! marks the range poisoned and lets the access go on; the owner looks at [`GuardedRange::is_poisoned`] and gives the range up. Any other
//! fault goes to the handler that was there before. The registry is a fixed table of atomics, as a signal handler may take no lock.

use std::mem::MaybeUninit;
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};

use crate::map::SharedMap;

/// One arena, 64 engines and 64 refused files need far fewer; the table is searched only on a fault.
const MAX_RANGES: usize = 512;

const FREE: u32 = 0;
const CLAIMED: u32 = 1;
const LIVE: u32 = 2;

struct Record {
    state: AtomicU32,
    start: AtomicUsize,
    end: AtomicUsize,
    poisoned: AtomicBool,
}

static RECORDS: [Record; MAX_RANGES] = [const {
    Record { state: AtomicU32::new(FREE), start: AtomicUsize::new(0), end: AtomicUsize::new(0), poisoned: AtomicBool::new(false) }
}; MAX_RANGES];
/// What handled SIGBUS before, or why no handler could be installed. Set before ours is installed.
static PREVIOUS: OnceLock<Option<libc::sigaction>> = OnceLock::new();
/// The kernel's page, which is 64 KiB on some machines: a smaller mapping over a fault would be refused. Set before the handler is installed.
static KERNEL_PAGE: AtomicUsize = AtomicUsize::new(0);

/// A mapping whose faults are caught until this is dropped, which must happen before the mapping is.
#[derive(Debug)]
pub struct GuardedRange {
    /// None: the table was full, and an unguarded range counts as poisoned.
    place: Option<usize>,
}

impl GuardedRange {
    /// Guard a whole mapping. Installs the handler of this process at the first call.
    pub fn new(map: &SharedMap) -> Self {
        if PREVIOUS.get_or_init(install).is_none() {
            return Self { place: None };
        }
        let start = map.as_ptr() as usize;
        Self { place: register(start, start + map.len()) }
    }

    /// True once a page of the mapping was missing: its content is no longer what its peers see.
    pub fn is_poisoned(&self) -> bool {
        self.place.is_none_or(|place| RECORDS[place].poisoned.load(Ordering::Acquire))
    }
}

impl Drop for GuardedRange {
    fn drop(&mut self) {
        if let Some(place) = self.place {
            RECORDS[place].state.store(FREE, Ordering::Release);
        }
    }
}

fn register(start: usize, end: usize) -> Option<usize> {
    let claim = |record: &Record| record.state.compare_exchange(FREE, CLAIMED, Ordering::Acquire, Ordering::Relaxed).is_ok();
    let place = RECORDS.iter().position(claim)?;
    let record = &RECORDS[place];
    record.start.store(start, Ordering::Relaxed);
    record.end.store(end, Ordering::Relaxed);
    record.poisoned.store(false, Ordering::Relaxed);
    record.state.store(LIVE, Ordering::Release);
    Some(place)
}

fn install() -> Option<libc::sigaction> {
    KERNEL_PAGE.store(rustix::param::page_size(), Ordering::Release);
    let mut before = MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: a null action only asks; the kernel fills `before`.
    if unsafe { libc::sigaction(libc::SIGBUS, ptr::null(), before.as_mut_ptr()) } != 0 {
        return None;
    }
    // SAFETY: the call above succeeded and so filled it.
    let before = unsafe { before.assume_init() };
    // SAFETY: all-zero is a valid sigaction (default handler, empty mask, no flags).
    let mut action: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
    action.sa_sigaction = on_sigbus as *const () as usize;
    // On the alternate stack where a thread has one. Not restarting matters not: a fault interrupts no system call.
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    // It may run before PREVIOUS is set, for another thread's foreign fault, which then gets the default action.
    // SAFETY: the handler is async-signal-safe: atomics, mmap and sigaction only.
    let done = unsafe { libc::sigaction(libc::SIGBUS, &raw const action, ptr::null_mut()) };
    (done == 0).then_some(before)
}

extern "C" fn on_sigbus(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid siginfo with SA_SIGINFO.
    let info_ref = unsafe { &*info };
    // SAFETY: SIGBUS fills the address.
    let address = unsafe { info_ref.si_addr() } as usize;
    // SAFETY: errno is this thread's own.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: as above.
    let saved = unsafe { *errno };
    let repaired = record_of(address).is_some_and(|record| cover(record, address));
    // SAFETY: as above. The interrupted code must not see what mmap left there.
    unsafe { *errno = saved };
    if !repaired {
        pass_on(signal, info, context);
    }
}

fn record_of(address: usize) -> Option<&'static Record> {
    RECORDS.iter().find(|record| {
        let (start, end) = (record.start.load(Ordering::Relaxed), record.end.load(Ordering::Relaxed));
        record.state.load(Ordering::Acquire) == LIVE && (start..end).contains(&address)
    })
}

fn cover(record: &Record, address: usize) -> bool {
    let page_bytes = KERNEL_PAGE.load(Ordering::Acquire);
    let page = (address & !(page_bytes - 1)) as *mut libc::c_void;
    record.poisoned.store(true, Ordering::Release);
    let prot = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
    // SAFETY: the page lies inside a registered mapping, whose owner sees it as bytes or atomics only: zeroes are valid.
    unsafe { libc::mmap(page, page_bytes, prot, flags, -1, 0) != libc::MAP_FAILED }
}

/// Do what would have happened without us. With the default action the fault is raised again on return and then ends the process.
fn pass_on(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let Some(Some(before)) = PREVIOUS.get() else { return restore_default(signal) };
    match before.sa_sigaction {
        libc::SIG_DFL | libc::SIG_IGN => restore_default(signal),
        handler if before.sa_flags & libc::SA_SIGINFO != 0 => {
            // SAFETY: it was installed with SA_SIGINFO, hence has this type.
            let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) = unsafe { std::mem::transmute(handler) };
            handler(signal, info, context);
        }
        handler => {
            // SAFETY: it was installed without SA_SIGINFO, hence has this type.
            let handler: extern "C" fn(libc::c_int) = unsafe { std::mem::transmute(handler) };
            handler(signal);
        }
    }
}

fn restore_default(signal: libc::c_int) {
    // SAFETY: all-zero is the default action; sigaction is async-signal-safe.
    let action: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
    // SAFETY: as above. A failure leaves our handler, which comes here again.
    let _ = unsafe { libc::sigaction(signal, &raw const action, ptr::null_mut()) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::fd::AsFd;
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;

    use crate::layout::PAGE_BYTES;

    const PAGES: usize = 8;
    const BYTES: usize = PAGES * PAGE_BYTES as usize;

    fn tmpfs_file() -> File {
        let file = tempfile::tempfile_in("/dev/shm").expect("a tmpfs at /dev/shm");
        file.set_len(BYTES as u64).expect("room for 8 pages");
        file
    }

    #[test]
    fn a_truncated_mapping_reads_zero_and_is_poisoned() {
        let file = tmpfs_file();
        let map = SharedMap::new(file.as_fd(), BYTES, true).expect("a mapping");
        map.write(0, &[7; BYTES]);
        let guard = GuardedRange::new(&map);
        assert!(!guard.is_poisoned());
        file.set_len(2 * PAGE_BYTES).expect("truncate");
        let mut bytes = [1; BYTES];
        map.read(0, &mut bytes);
        assert!(guard.is_poisoned());
        assert!(bytes[..2 * PAGE_BYTES as usize].iter().all(|byte| *byte == 7));
        assert!(bytes[2 * PAGE_BYTES as usize..].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn a_write_behind_the_end_is_caught_too() {
        let file = tmpfs_file();
        let map = SharedMap::new(file.as_fd(), BYTES, true).expect("a mapping");
        let guard = GuardedRange::new(&map);
        file.set_len(0).expect("truncate");
        map.zero(0, BYTES);
        assert!(guard.is_poisoned());
    }

    #[test]
    fn one_mapping_poisons_no_other() {
        let (one, other) = (tmpfs_file(), tmpfs_file());
        let one_map = SharedMap::new(one.as_fd(), BYTES, true).expect("a mapping");
        let other_map = SharedMap::new(other.as_fd(), BYTES, true).expect("a mapping");
        let (one_guard, other_guard) = (GuardedRange::new(&one_map), GuardedRange::new(&other_map));
        one.set_len(0).expect("truncate");
        one_map.zero(0, 1);
        other_map.zero(0, 1);
        assert!(one_guard.is_poisoned() && !other_guard.is_poisoned());
    }

    /// Not a test of its own: the body of the one below, run in a process that is meant to die.
    #[test]
    fn child_faults_unguarded() {
        if std::env::var_os("SPILLWAY_TEST_FAULT").is_none() {
            return;
        }
        let (guarded, bare) = (tmpfs_file(), tmpfs_file());
        let guarded_map = SharedMap::new(guarded.as_fd(), BYTES, true).expect("a mapping");
        let _guard = GuardedRange::new(&guarded_map);
        let map = SharedMap::new(bare.as_fd(), BYTES, true).expect("a mapping");
        bare.set_len(0).expect("truncate");
        map.zero(0, 1);
    }

    #[test]
    fn an_unregistered_fault_still_ends_the_process() {
        let me = std::env::current_exe().expect("this test's path");
        let mut child = Command::new(me);
        child.args(["--exact", "guard::tests::child_faults_unguarded", "--test-threads=1"]).env("SPILLWAY_TEST_FAULT", "1");
        let status = child.output().expect("spawn").status;
        assert_eq!(status.signal(), Some(libc::SIGBUS), "{status}");
    }
}
