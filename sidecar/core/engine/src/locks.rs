//! Record locks: how a sidecar tells a living engine from a dead one without pids, which mean nothing across PID namespaces.
//!
//! An engine's process holds a POSIX lock (`F_SETLK`) on one byte: it ends with the process, a forked child does not carry it on. The sidecar asks
//! with `F_OFD_GETLK`, which sees POSIX locks even of its own process. The catch of POSIX locks: closing ANY descriptor of the file in the process
//! drops them, so a process opens a control file once and keeps it open ([`crate::attach`]).

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

fn lock_of(kind: libc::c_int, start: u64, len: u64) -> libc::flock {
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: start as i64,
        l_len: len as i64,
        l_pid: 0,
    }
}

fn fcntl(fd: BorrowedFd<'_>, command: libc::c_int, lock: &mut libc::flock) -> io::Result<()> {
    // SAFETY: `fd` is open for the call and `lock` is a valid flock that the kernel reads and may write.
    match unsafe { libc::fcntl(fd.as_raw_fd(), command, std::ptr::from_mut(lock)) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Take one byte for this process; false when another process has it.
pub fn try_lock_byte(fd: BorrowedFd<'_>, byte: u64) -> io::Result<bool> {
    match fcntl(fd, libc::F_SETLK, &mut lock_of(libc::F_WRLCK, byte, 1)) {
        Ok(()) => Ok(true),
        Err(error) if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EACCES)) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Give one byte back.
pub fn unlock_byte(fd: BorrowedFd<'_>, byte: u64) -> io::Result<()> {
    fcntl(fd, libc::F_SETLK, &mut lock_of(libc::F_UNLCK, byte, 1))
}

/// True when any process holds any byte of the range.
pub fn is_any_locked(fd: BorrowedFd<'_>, start: u64, len: u64) -> io::Result<bool> {
    let mut lock = lock_of(libc::F_WRLCK, start, len);
    fcntl(fd, libc::F_OFD_GETLK, &mut lock)?;
    Ok(lock.l_type != libc::F_UNLCK as libc::c_short)
}
