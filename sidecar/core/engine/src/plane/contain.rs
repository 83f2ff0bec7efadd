//! A second wall: a panic while one engine is served refuses that engine, and the pod's others go on.
//!
//! The first wall is that none is possible: what an engine wrote is copied, bounded and only then reckoned with, and no index or slot number of its own is
//! used before it was looked up among those it holds. Should that fail somewhere, a daemon that ends would find the same words again at its next start.
//!
//! Going on is sound. In shared memory a panic leaves what a kill at the same instruction leaves, in an order that a successor can repair, and no entry
//! is half-written, as nothing panics between its two sequence words. What is kept here can be short of the one slot that was in hand, which the next
//! open finds again, and of the event that was to be told. A refused engine's operations are not looked at any more, so it does not come to a second one.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::control::REFUSED_FAULT;

use super::Plane;

impl Plane {
    /// Do some of one engine's work; `otherwise` if that panicked, and the engine is refused.
    pub(super) fn contained<T>(&mut self, tag: usize, otherwise: T, work: impl FnOnce(&mut Self) -> T) -> T {
        // The panic itself was reported by the process's hook.
        catch_unwind(AssertUnwindSafe(|| work(self))).unwrap_or_else(|_| {
            self.counters.panics_contained += 1;
            if let Some(engine) = self.engines[tag].as_mut() {
                engine.faulted = true;
            }
            self.refuse(tag, REFUSED_FAULT);
            otherwise
        })
    }
}
