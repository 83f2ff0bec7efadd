//! CLOCK_MONOTONIC: the same for every process of the pod, so a heartbeat can be judged by another process.

use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds.
pub fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// Whole seconds, as slot records hold them.
pub fn now_seconds() -> u32 {
    clock_gettime(ClockId::Monotonic).tv_sec as u32
}
