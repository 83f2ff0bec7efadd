//! Recycling without locks: an engine announces the epoch it looks up in, the sidecar waits for it before it takes tickets for the whole truth.
//!
//! Engine: `active = global`, fence(SeqCst), lookups, tickets, `active = 0` (Release). Sidecar: unlink, fence(SeqCst), bump global, fence(SeqCst), wait
//! until `active` is 0 or at least the bumped value, and only then read tickets. Either the sidecar sees the announcement and waits, or the engine's
//! lookups see the unlinked entry: the two SeqCst fences leave no third case. An idle engine is quiescent (0), so it holds nothing up.
//!
//! One that stands still inside a step would hold everything up. It is expelled: the sidecar declares steps of its epoch void, fence(SeqCst), and goes on as
//! if it had passed. The engine asks after each ticket, behind a fence(SeqCst), whether its step is void and then takes the ticket back: either the
//! sidecar sees the ticket, or the engine sees that it was expelled.

use crate::sync::{AtomicU64, Ordering, fence};

/// Engine: enter a step. A Release store, as a sidecar that reads it must also see the tickets of the steps before.
#[inline]
pub fn begin(global: &AtomicU64, active: &AtomicU64) {
    active.store(global.load(Ordering::Acquire), Ordering::Release);
    fence(Ordering::SeqCst);
}

/// Engine: leave a step; tickets written inside it are visible to whoever sees the 0.
#[inline]
pub fn end(active: &AtomicU64) {
    active.store(0, Ordering::Release);
}

/// Sidecar: after unlinking, open a new epoch; slots unlinked before may be judged once every engine [`passed`] it.
pub fn advance(global: &AtomicU64) -> u64 {
    fence(Ordering::SeqCst);
    let epoch = global.fetch_add(1, Ordering::SeqCst) + 1;
    fence(Ordering::SeqCst);
    epoch
}

/// Sidecar: true when this engine can no longer hold what was unlinked before `epoch`, other than in a ticket.
pub fn passed(active: &AtomicU64, epoch: u64) -> bool {
    let seen = active.load(Ordering::Acquire);
    seen == 0 || seen >= epoch
}

/// Sidecar: declare steps of an epoch before `epoch` void; tickets may be read for the whole truth after this as if their engine had [`passed`].
pub fn expel(expelled: &AtomicU64, epoch: u64) {
    expelled.store(epoch, Ordering::Release);
    fence(Ordering::SeqCst);
}

/// Engine: true when the step that it is in is void. Ask after a ticket was written, not only before.
#[inline]
pub fn is_expelled(active: &AtomicU64, expelled: &AtomicU64) -> bool {
    fence(Ordering::SeqCst);
    active.load(Ordering::Relaxed) < expelled.load(Ordering::Acquire)
}
