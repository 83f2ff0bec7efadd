//! The word of memory that supervisor and daemon share.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

/// A word that the daemon maps by its descriptor, and that outlives it.
pub struct Heartbeat {
    file: OwnedFd,
    word: NonNull<AtomicU64>,
}

impl Heartbeat {
    /// Zero, in memory of its own.
    pub fn new() -> io::Result<Self> {
        // SAFETY: the name is a C string; the call takes no other pointer.
        let descriptor = unsafe { libc::memfd_create(c"spillway-heartbeat".as_ptr(), libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING) };
        if descriptor < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: just made, and owned by nobody else.
        let file = unsafe { OwnedFd::from_raw_fd(descriptor) };
        let size = size_of::<AtomicU64>();
        // SAFETY: the descriptor is open; the call takes integers.
        if unsafe { libc::ftruncate(file.as_raw_fd(), size as libc::off_t) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor is open; the call takes integers.
        if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, libc::F_SEAL_SHRINK) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a new mapping of a file of that size, at an address that the kernel chooses.
        let address =
            unsafe { libc::mmap(std::ptr::null_mut(), size, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED, file.as_raw_fd(), 0) };
        match NonNull::new(address.cast::<AtomicU64>()) {
            Some(word) if address != libc::MAP_FAILED => Ok(Self { file, word }),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// The descriptor that the daemon inherits.
    pub fn descriptor(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    /// What the daemon promised last, in nanoseconds of CLOCK_MONOTONIC.
    pub fn promise_ns(&self) -> u64 {
        self.word().load(Ordering::Relaxed)
    }

    /// Before a daemon starts: it has promised nothing yet.
    pub fn clear(&self) {
        self.word().store(0, Ordering::Relaxed);
    }

    fn word(&self) -> &AtomicU64 {
        // SAFETY: mapped by `new` for as long as this lives (it is never unmapped), aligned to a page, and any bits are a value. The file is
        // sealed against shrinking, so no daemon can take the page away.
        unsafe { self.word.as_ref() }
    }
}
