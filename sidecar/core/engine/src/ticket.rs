//! How a load ticket ends: by whoever notices first that every rank has acknowledged it.
//!
//! A ticket is free (0) or carries an id that is never used again in its incarnation, so ending it is one compare-and-swap from that id to 0,
//! and of several that try one succeeds. The sidecar ends tickets as it goes. The engine ends one where it finds no free place: without a
//! sidecar nobody else would, and hits would end with the places. Who succeeds knows that the slots were this ticket's until then: the engine
//! writes the next ticket's slots only after the word was 0.
//!
//! A place ended and taken again pins what it must: the sidecar reads tickets only after the engine has passed the epoch (`crate::epoch`), and
//! then sees every ticket of the steps before; one of a later step cannot name what was unlinked.

use crate::sync::{AtomicU64, Ordering};

/// True once every rank's word tells of this ticket. Acquire: what the ranks read under it was read.
#[inline]
pub fn is_acknowledged<'acks>(id: u64, mut acks: impl Iterator<Item = &'acks AtomicU64>) -> bool {
    acks.all(|ack| ack.load(Ordering::Acquire) == id)
}

/// Make the place free if it still is this ticket's; true for the one that did. Release: whoever sees the 0 knows that the reads are over.
#[inline]
pub fn end(word: &AtomicU64, id: u64) -> bool {
    word.compare_exchange(id, 0, Ordering::AcqRel, Ordering::Relaxed).is_ok()
}
