//! Signals and children, by system call. SIGTERM, SIGINT and SIGCHLD stay blocked and are taken one by one with sigtimedwait, so nothing runs in
//! a signal handler.

use std::fmt;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::RawFd;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::{Duration, Instant};

/// How a child ended.
#[derive(Clone, Copy, Debug)]
pub struct End(i32);

impl End {
    /// The container's exit code: the child's own, or 128 + signal.
    pub fn exit_code(self) -> u8 {
        if self.is_signal() { (128 + libc::WTERMSIG(self.0)) as u8 } else { libc::WEXITSTATUS(self.0) as u8 }
    }
}

impl End {
    /// True when a signal ended it.
    pub fn is_signal(self) -> bool {
        libc::WIFSIGNALED(self.0)
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if libc::WIFSIGNALED(self.0) {
            write!(f, "signal {}", libc::WTERMSIG(self.0))
        } else {
            write!(f, "exit code {}", libc::WEXITSTATUS(self.0))
        }
    }
}

/// What `next_signal` took.
pub enum Signal {
    /// SIGTERM or SIGINT.
    Stop(i32),
    /// A child changed its state.
    Child,
    /// The time is over.
    None,
}

fn signals() -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: sigemptyset initialises the whole set that the pointer names.
    unsafe { libc::sigemptyset(set.as_mut_ptr()) };
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGCHLD] {
        // SAFETY: the set was initialised above and the signal numbers are valid.
        unsafe { libc::sigaddset(set.as_mut_ptr(), signal) };
    }
    // SAFETY: initialised by sigemptyset.
    unsafe { set.assume_init() }
}

/// Block the signals that `next_signal` takes. Call once, before the first child.
pub fn prepare() -> io::Result<()> {
    let set = signals();
    // SAFETY: `set` is initialised; the old mask is not asked for.
    match unsafe { libc::sigprocmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Let the kernel end the child when we end (without PID 1 nobody would restart it, and it would hold the index's lock), let it have the
/// signals that we block (a mask is inherited, and a daemon that cannot see SIGTERM would hold its slot of the disk for the whole grace), and
/// let it inherit one descriptor.
pub fn prepare_child(command: &mut Command, inherited: Option<RawFd>) {
    let become_daemon = move || {
        // SAFETY: prctl with PR_SET_PDEATHSIG takes one integer; it is async-signal-safe.
        if unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) } != 0 {
            return Err(io::Error::last_os_error());
        }
        if let Some(descriptor) = inherited {
            // SAFETY: fcntl with F_SETFD takes integers; it is async-signal-safe.
            if unsafe { libc::fcntl(descriptor, libc::F_SETFD, 0) } != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        let set = signals();
        // SAFETY: `set` is initialised; sigprocmask is async-signal-safe and the child has one thread.
        match unsafe { libc::sigprocmask(libc::SIG_UNBLOCK, &set, std::ptr::null_mut()) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    };
    // SAFETY: between fork and exec the closure only makes async-signal-safe system calls.
    unsafe { command.pre_exec(become_daemon) };
}

/// Take the next pending signal, waiting up to `timeout`.
pub fn next_signal(timeout: Duration) -> Signal {
    let set = signals();
    let timeout = libc::timespec { tv_sec: timeout.as_secs() as libc::time_t, tv_nsec: timeout.subsec_nanos().into() };
    // SAFETY: set and timeout are initialised and outlive the call; no siginfo is asked for.
    match unsafe { libc::sigtimedwait(&set, std::ptr::null_mut(), &timeout) } {
        libc::SIGCHLD => Signal::Child,
        number @ (libc::SIGTERM | libc::SIGINT) => Signal::Stop(number),
        _ => Signal::None,
    }
}

/// Wait before a restart. True when we were asked to stop meanwhile.
pub fn wait_for_stop(delay: Duration) -> bool {
    let end = Instant::now() + delay;
    loop {
        if let Signal::Stop(_) = next_signal(end.saturating_duration_since(Instant::now())) {
            return true;
        }
        reap(0);
        if Instant::now() >= end {
            return false;
        }
    }
}

/// Reap every child that has ended; how `pid` ended, if it was among them.
pub fn reap(pid: i32) -> Option<End> {
    let mut found = None;
    loop {
        let mut status = 0;
        // SAFETY: waitpid writes one integer to the pointer.
        let ended = unsafe { libc::waitpid(-1, &mut status, libc::WNOHANG) };
        if ended <= 0 {
            return found;
        }
        if ended == pid {
            found = Some(End(status));
        }
    }
}

/// Now, on CLOCK_MONOTONIC, in nanoseconds.
pub fn now_ns() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: clock_gettime writes one timespec to the pointer.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut now) };
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// Send a signal to the daemon. One that has just ended is no error.
pub fn send(pid: i32, signal: i32) {
    // SAFETY: kill takes two integers; `pid` is our child and not reaped yet, so it names nobody else.
    unsafe { libc::kill(pid, signal) };
}
