//! Which versions of engine and sidecar work together: N with N-1, in both orders.
//!
//! Each side's file says two things: the oldest ABI that the other side may have, and the writer's own. A build refuses what is too old for it or
//! was written by one that takes it for too old; else both keep to the older of the two ABIs. So fields are only ever appended, in bytes that were
//! zero, and what a field needs of the other side is asked for by its ABI ([`EXPULSION`], [`RECALL`]). A build of another age finds zero in what the other does
//! not write, and leaves what it does not know alone.

use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::control::Ctl;
use crate::error::{CoreError, Result};
use crate::layout::{ABI, IndexHeader, OLDEST_ABI};

/// From this ABI on an engine looks whether it was expelled from its step. An older one is waited for.
pub const EXPULSION: u32 = 2;
/// From this ABI on an engine takes leases by a compare-exchange, so that some can be taken back. An older one keeps what it was granted.
pub const RECALL: u32 = 2;

/// What a file says of its writer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stated {
    /// The oldest ABI that works with the writer.
    pub oldest: u32,
    /// The writer's own. Whoever knew of no second word left zero here, and counts as ABI 1 whatever it calls itself.
    pub own: u32,
}

impl Stated {
    /// Of a control file: the engine's client.
    pub fn by_client(ctl: &Ctl) -> Self {
        Self::load(&ctl.header().abi, &ctl.header().client_abi)
    }

    /// Of an index: the sidecar.
    pub fn by_sidecar(header: &IndexHeader) -> Self {
        Self::load(&header.abi, &header.sidecar_abi)
    }

    /// Each word once, as the other side can change them.
    fn load(oldest: &AtomicU32, own: &AtomicU32) -> Self {
        let oldest = oldest.load(Ordering::Relaxed);
        match own.load(Ordering::Relaxed) {
            0 => Self { oldest, own: oldest.min(1) },
            own => Self { oldest, own: own.max(oldest) },
        }
    }

    /// The ABI that this build and the writer both keep to; None: they do not work together.
    pub fn common(self) -> Option<u32> {
        let common = self.own.min(ABI);
        (common >= OLDEST_ABI && ABI >= self.oldest).then_some(common)
    }

    /// As [`Self::common`], with words for a person.
    pub fn check(self, path: &Path) -> Result<u32> {
        self.common().ok_or_else(|| CoreError::Abi { path: path.to_owned(), seen: self.own, oldest: OLDEST_ABI, want: ABI })
    }
}

/// State this build's versions in a file of its own.
pub fn state(oldest: &AtomicU32, own: &AtomicU32) {
    oldest.store(OLDEST_ABI, Ordering::Relaxed);
    own.store(ABI, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn common(oldest: u32, own: u32) -> Option<u32> {
        Stated::load(&oldest.into(), &own.into()).common()
    }

    #[test]
    fn the_older_of_two_neighbours_is_kept_to() {
        assert_eq!(common(ABI - 2, ABI - 1), Some(ABI - 1));
        assert_eq!(common(ABI - 1, ABI), Some(ABI));
        assert_eq!(common(ABI, ABI + 1), Some(ABI));
    }

    #[test]
    fn files_from_before_the_second_word_say_it_by_the_first() {
        assert_eq!(common(1, 0), (OLDEST_ABI <= 1).then_some(1));
    }

    #[test]
    fn whoever_is_further_apart_is_refused() {
        assert_eq!(common(ABI + 1, ABI + 2), None);
        assert_eq!(common(0, ABI.saturating_sub(2)), None);
        assert_eq!(common(0, 0), None);
        assert_eq!(common(99, 0), None);
    }
}
