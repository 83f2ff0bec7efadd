//! A shared mapping and the only casts from its bytes to typed cells.
//!
//! Everything that two processes share is made of atomics ([`SharedCell`]); plain bytes are copied in and out. What an engine can write is
//! copied once and validated after the copy by the callers.

use std::io;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// A `repr(C)` struct made of atomics only: any bit pattern is a value, and concurrent access through `&self` is defined.
///
/// # Safety
/// The implementer has no padding and no field that is not an atomic (or an array of such).
pub unsafe trait SharedCell {}

// SAFETY: an atomic word.
unsafe impl SharedCell for std::sync::atomic::AtomicU32 {}
// SAFETY: an atomic word.
unsafe impl SharedCell for std::sync::atomic::AtomicU64 {}

/// A file's bytes in this process, shared with other processes. Unmapped on drop.
#[derive(Debug)]
pub struct SharedMap {
    ptr: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping belongs to this value alone, and all access goes through atomics or copies.
unsafe impl Send for SharedMap {}
// SAFETY: as above; `&SharedMap` gives out nothing but atomics and copies.
unsafe impl Sync for SharedMap {}

impl SharedMap {
    /// Map the first `len` bytes of a file that is at least that long.
    pub fn new(fd: BorrowedFd<'_>, len: usize, writable: bool) -> io::Result<Self> {
        let prot = if writable { ProtFlags::READ | ProtFlags::WRITE } else { ProtFlags::READ };
        // SAFETY: a fresh mapping at an address the kernel chooses; it aliases nothing in this process.
        let ptr = unsafe { mmap(std::ptr::null_mut(), len, prot, MapFlags::SHARED, fd, 0) }?;
        let ptr = NonNull::new(ptr.cast::<u8>()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { ptr, len })
    }

    /// Bytes mapped.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True for a mapping of no bytes, which the kernel does not give.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The first byte; for I/O submissions and the fault guard.
    pub fn as_ptr(&self) -> *mut u8 {
        self.ptr.as_ptr()
    }

    /// The address of a range, for the kernel to read or write.
    pub fn ptr_at(&self, offset: usize, len: usize) -> *mut u8 {
        self.check(offset, len);
        // SAFETY: `check` proved that offset..offset+len lies inside the mapping.
        unsafe { self.ptr.as_ptr().add(offset) }
    }

    /// One typed cell. Panics when it does not lie inside: offsets come from this crate's layout or were checked at open.
    pub fn cell<T: SharedCell>(&self, offset: usize) -> &T {
        let ptr = self.ptr_at(offset, size_of::<T>()).cast::<T>();
        assert!(ptr.is_aligned(), "cell at {offset} is misaligned");
        // SAFETY: inside the mapping, aligned, lives as long as `self`; SharedCell admits any bytes and concurrent writers.
        unsafe { &*ptr }
    }

    /// An array of typed cells, under the same conditions as [`Self::cell`].
    pub fn cells<T: SharedCell>(&self, offset: usize, count: usize) -> &[T] {
        let bytes = size_of::<T>().checked_mul(count).expect("a table is smaller than the address space");
        let ptr = self.ptr_at(offset, bytes).cast::<T>();
        assert!(ptr.is_aligned(), "cells at {offset} are misaligned");
        // SAFETY: as in `cell`, for `count` of them.
        unsafe { std::slice::from_raw_parts(ptr, count) }
    }

    /// Copy bytes out.
    pub fn read(&self, offset: usize, into: &mut [u8]) {
        let from = self.ptr_at(offset, into.len());
        // SAFETY: both ranges are valid for their length and do not overlap; a concurrent writer can only change which bytes are copied.
        unsafe { std::ptr::copy_nonoverlapping(from, into.as_mut_ptr(), into.len()) }
    }

    /// Copy bytes in.
    pub fn write(&self, offset: usize, from: &[u8]) {
        let to = self.ptr_at(offset, from.len());
        // SAFETY: both ranges are valid for their length and do not overlap.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), to, from.len()) }
    }

    /// Zero a range.
    pub fn zero(&self, offset: usize, len: usize) {
        let to = self.ptr_at(offset, len);
        // SAFETY: the range is valid for `len` bytes.
        unsafe { std::ptr::write_bytes(to, 0, len) }
    }

    /// Let `f` see a range in place, for hashing. An engine may write it meanwhile, so `f` must not let the bytes steer memory access.
    pub fn with_bytes<R>(&self, offset: usize, len: usize, f: impl FnOnce(&[u8]) -> R) -> R {
        let ptr = self.ptr_at(offset, len);
        // SAFETY: the range is valid for `len` bytes while `self` lives. A racing write changes the digest and nothing else: callers compare
        // digests, they neither index nor branch by content.
        f(unsafe { std::slice::from_raw_parts(ptr, len) })
    }

    /// Ask the processor to fetch a line; overlaps the misses of a batch of lookups.
    #[inline]
    pub fn prefetch(&self, offset: usize) {
        #[cfg(target_arch = "x86_64")]
        if offset < self.len {
            // SAFETY: offset lies inside the mapping.
            let ptr = unsafe { self.ptr.as_ptr().add(offset) };
            // SAFETY: prefetch has no effect on memory and cannot fault; SSE is part of x86-64.
            unsafe { std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(ptr.cast::<i8>()) }
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = offset;
    }

    fn check(&self, offset: usize, len: usize) {
        let end = offset.checked_add(len).expect("an offset and a length add up");
        assert!(end <= self.len, "range {offset}+{len} is outside a mapping of {} bytes", self.len);
    }
}

impl Drop for SharedMap {
    fn drop(&mut self) {
        // SAFETY: this value made the mapping, and references into it borrow from this value.
        let _ = unsafe { munmap(self.ptr.as_ptr().cast(), self.len) };
    }
}
