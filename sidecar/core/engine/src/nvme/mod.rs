//! The NVMe store: one preallocated file of slots, self-describing, bounded, and never waited for.
//!
//! One owner thread calls [`NvmeStore`]; the rung inside ([`crate::io`]) moves the bytes and digests what arrives. What a slot holds is written in the slot itself ([`crate::header`]), so a
//! restart needs no journal: headers are read back by a scan behind the serving. The store finds and quarantines damaged headers; whether a
//! sound header is current, misplaced or a double is for the plane to say, which has the index.

mod beneath;
mod breaker;
mod error;
mod extents;
mod folder;
mod format;
mod store;

use std::time::Duration;

use crate::checksum::Digest;
use crate::header::SlotHeader;

pub use crate::io::{IoFault, Refusal, RungKind, Urgency};
pub use error::NvmeError;
pub use format::{SUPERBLOCK_FIELDS, SUPERBLOCK_MAGIC, TABLE_ENTRIES_PER_PAGE};
pub use store::{NvmeStore, StoreStats};

/// Whether the page cache is bypassed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direct {
    /// O_DIRECT where it is proved to work, else buffered and said so.
    Auto,
    /// O_DIRECT or no tier.
    Required,
    /// Buffered.
    Off,
}

/// What a store shall be.
#[derive(Clone, Debug)]
pub struct NvmeConfig {
    /// Length of the store, allocated to its last byte.
    pub capacity_bytes: u64,
    /// Stores that may stand side by side in the folder.
    pub slots: u32,
    /// Threads of the threads rung, each one I/O at a time.
    pub io_threads: usize,
    /// Better ways of doing I/O are not tried.
    pub best_rung: RungKind,
    /// Page cache or not.
    pub direct: Direct,
    /// How long one read of a page may take before the breaker opens; larger ones and writes get more ([`store`](self)).
    pub deadline: Duration,
    /// Share of the capacity that must stay free on the volume, beyond the store, when the store is made.
    pub reserve_percent: u32,
}

/// What open found.
#[derive(Clone, Debug, Default)]
pub struct OpenReport {
    /// N of slot-N.
    pub slot_number: u32,
    /// An existing store was kept.
    pub adopted: bool,
    /// O_DIRECT, proved by a write and a read.
    pub direct: bool,
    /// A stable word when something is not as asked: `buffered`, `reformatted`; else empty.
    pub reason: String,
    /// The reason in a sentence.
    pub message: String,
    /// Random, drawn when the store was made.
    pub store_id: [u8; 16],
}

/// What the owner is told.
#[derive(Debug)]
pub enum Completion {
    /// The slot's bytes are in the buffer, which is the owner's again in either case.
    Read {
        /// As submitted.
        token: u64,
        /// The digest of what arrived behind the header page; `Unavailable` and `Memory` say nothing about the chunk.
        result: Result<Digest, IoFault>,
    },
    /// The slot holds the buffer's bytes, which may change again in either case.
    Written {
        /// As submitted.
        token: u64,
        /// `Unavailable` and `Memory` as for reads.
        result: Result<(), IoFault>,
    },
    /// The damaged header is overwritten and the slot free.
    Quarantined {
        /// As submitted.
        token: u64,
        /// On a fault the slot stays out of use until the next start.
        result: Result<(), IoFault>,
    },
    /// An I/O runs longer than it may. Nobody should wait for it, but its buffer stays the kernel's until its own completion comes.
    Late {
        /// As submitted.
        token: u64,
    },
    /// The scan found a sound header; its slot is in use.
    Scanned {
        /// The page it was read from.
        slot: u64,
        /// Of the slot's extent; the header's is the same.
        stride: u64,
        /// What it says.
        header: SlotHeader,
    },
    /// The scan found damage and the store quarantines the slot.
    ScanFault {
        /// The page it was read from.
        slot: u64,
        /// Names the damage.
        reason: String,
    },
    /// Every slot is known.
    ScanDone,
    /// The tier went away; submissions fail at once until it is back.
    Breaker {
        /// `io_error`, `no_space`, `read_only` or `timeout`.
        reason: &'static str,
    },
    /// A probe succeeded.
    BreakerClosed,
}
