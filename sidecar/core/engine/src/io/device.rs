//! What the store needs of a volume, small enough that a test can put a failing one in its place.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use rustix::fs::{FallocateFlags, fallocate, fdatasync};
use rustix::io::Errno;

use super::PageBuffer;
use crate::layout::PAGE_BYTES;

/// Why an I/O gave nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IoFault {
    /// The device or its file system refused, with this errno.
    #[error("{}", io::Error::from_raw_os_error(*.0))]
    Device(i32),
    /// The file ends before the transfer does.
    #[error("the file is too short")]
    Short,
    /// The memory to transfer from or to is not there any more (EFAULT): an engine truncated the arena. Says nothing about the device.
    #[error("the memory is gone")]
    Memory,
    /// Not tried: the breaker was open or the store is closing.
    #[error("the tier is not available")]
    Unavailable,
}

impl IoFault {
    fn of(error: &io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::EFAULT) => Self::Memory,
            Some(errno) => Self::Device(errno),
            None => Self::Device(libc::EIO),
        }
    }

    /// The breaker's reason; None when the device is not to blame.
    pub fn breaker_reason(self) -> Option<&'static str> {
        match self {
            Self::Device(libc::ENOSPC | libc::EDQUOT) => Some("no_space"),
            Self::Device(libc::EROFS) => Some("read_only"),
            Self::Device(_) | Self::Short => Some("io_error"),
            Self::Memory | Self::Unavailable => None,
        }
    }
}

impl From<io::Error> for IoFault {
    fn from(error: io::Error) -> Self {
        Self::of(&error)
    }
}

/// A range of bytes that outlives the process. Calls block; any number of threads call at once.
pub trait Device: Send + Sync + std::fmt::Debug {
    /// Bytes; fixed.
    fn len_bytes(&self) -> u64;

    /// Read up to `len` bytes; how many came, 0 at the end.
    ///
    /// # Safety
    /// `into` is valid for writes of `len` bytes until this returns.
    unsafe fn read_at(&self, into: *mut u8, len: usize, offset: u64) -> io::Result<usize>;

    /// Write up to `len` bytes; how many went.
    ///
    /// # Safety
    /// `from` is valid for reads of `len` bytes until this returns.
    unsafe fn write_at(&self, from: *const u8, len: usize, offset: u64) -> io::Result<usize>;

    /// Make a range read as zero, still allocated.
    fn zero(&self, offset: u64, len: u64) -> io::Result<()>;

    /// Make all that was written durable.
    fn sync(&self) -> io::Result<()>;

    /// The file behind it, for a kernel ring to read and write past these calls; None: only these calls.
    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

/// A preallocated file.
#[derive(Debug)]
pub struct FileDevice {
    file: File,
    len_bytes: u64,
}

impl FileDevice {
    /// All of an open file.
    pub fn new(file: File) -> io::Result<Self> {
        let len_bytes = file.metadata()?.len();
        Ok(Self { file, len_bytes })
    }

    /// The flags that the kernel holds for the file, to prove O_DIRECT.
    pub fn is_direct(&self) -> bool {
        rustix::fs::fcntl_getfl(&self.file).is_ok_and(|flags| flags.contains(rustix::fs::OFlags::DIRECT))
    }

    fn write_zeroes(&self, offset: u64, len: u64) -> io::Result<()> {
        const PAGES: usize = 256;
        let zeroes = PageBuffer::new(PAGES);
        let mut done = 0;
        while done < len {
            let part = (len - done).min(PAGES as u64 * PAGE_BYTES) as usize;
            // SAFETY: `zeroes` holds at least `part` bytes.
            unsafe { write_full(self, zeroes.as_ptr(), part, offset + done) }.map_err(|fault| match fault {
                IoFault::Device(errno) => io::Error::from_raw_os_error(errno),
                _ => io::Error::from_raw_os_error(libc::EIO),
            })?;
            done += part as u64;
        }
        Ok(())
    }
}

fn transferred(count: isize) -> io::Result<usize> {
    usize::try_from(count).map_err(|_| io::Error::last_os_error())
}

impl Device for FileDevice {
    fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    unsafe fn read_at(&self, into: *mut u8, len: usize, offset: u64) -> io::Result<usize> {
        // SAFETY: the caller vouches for `into`; the descriptor is open.
        transferred(unsafe { libc::pread(self.file.as_raw_fd(), into.cast(), len, offset as i64) })
    }

    unsafe fn write_at(&self, from: *const u8, len: usize, offset: u64) -> io::Result<usize> {
        // SAFETY: the caller vouches for `from`; the descriptor is open.
        transferred(unsafe { libc::pwrite(self.file.as_raw_fd(), from.cast(), len, offset as i64) })
    }

    fn zero(&self, offset: u64, len: u64) -> io::Result<()> {
        match fallocate(self.file.as_fd(), FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE, offset, len) {
            Err(Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS) => self.write_zeroes(offset, len),
            other => Ok(other?),
        }
    }

    fn sync(&self) -> io::Result<()> {
        Ok(fdatasync(self.file.as_fd())?)
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        Some(self.file.as_fd())
    }
}

/// Read exactly `len` bytes, however many calls and interruptions it takes.
///
/// # Safety
/// `into` is valid for writes of `len` bytes until this returns.
pub unsafe fn read_full(device: &dyn Device, into: *mut u8, len: usize, offset: u64) -> Result<(), IoFault> {
    let mut done = 0;
    while done < len {
        // SAFETY: done < len, so the address stays inside the caller's buffer.
        let rest = unsafe { into.add(done) };
        // SAFETY: `rest` has len - done bytes of the caller's buffer.
        match unsafe { device.read_at(rest, len - done, offset + done as u64) } {
            Ok(0) => return Err(IoFault::Short),
            Ok(count) => done += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(IoFault::of(&error)),
        }
    }
    Ok(())
}

/// Write exactly `len` bytes, however many calls and interruptions it takes.
///
/// # Safety
/// `from` is valid for reads of `len` bytes until this returns.
pub unsafe fn write_full(device: &dyn Device, from: *const u8, len: usize, offset: u64) -> Result<(), IoFault> {
    let mut done = 0;
    while done < len {
        // SAFETY: done < len, so the address stays inside the caller's buffer.
        let rest = unsafe { from.add(done) };
        // SAFETY: `rest` has len - done bytes of the caller's buffer.
        match unsafe { device.write_at(rest, len - done, offset + done as u64) } {
            Ok(0) => return Err(IoFault::Short),
            Ok(count) => done += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(IoFault::of(&error)),
        }
    }
    Ok(())
}
