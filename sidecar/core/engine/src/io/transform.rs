//! The stage between arena and device: where a cipher, a codec or a bounce buffer goes. Rungs are generic over it, so the identity costs nothing.
//!
//! What goes out may not be changed in place, as engines read the slot meanwhile: it is bounced. What comes in is changed in place, as nobody can
//! see the slot before it was verified. Digests are of what the arena holds, never of what the device does.

use super::{IoFault, PageBuffer};

/// A change of bytes on their way. It runs on a rung's workers.
pub trait Transform: Send + Sync + std::fmt::Debug + 'static {
    /// What the device is to hold in place of these bytes; None: the very same. The buffer lives until the device has it.
    ///
    /// # Safety
    /// `from` is valid for reads of `len` bytes until this returns.
    unsafe fn outbound(&self, from: *const u8, len: usize, offset: u64) -> Result<Option<PageBuffer>, IoFault>;

    /// Turn what the device held into what the arena shall hold, in place.
    ///
    /// # Safety
    /// `at` is valid for reads and writes of `len` bytes until this returns.
    unsafe fn inbound(&self, at: *mut u8, len: usize, offset: u64) -> Result<(), IoFault>;
}

/// Device and arena hold the same bytes.
#[derive(Clone, Copy, Debug)]
pub struct Identity;

impl Transform for Identity {
    #[inline(always)]
    unsafe fn outbound(&self, _: *const u8, _: usize, _: u64) -> Result<Option<PageBuffer>, IoFault> {
        Ok(None)
    }

    #[inline(always)]
    unsafe fn inbound(&self, _: *mut u8, _: usize, _: u64) -> Result<(), IoFault> {
        Ok(())
    }
}
