//! What a poll reports. The numbers are the Python constants of `_core.pyi`.

use crate::key::Key16;

/// A chunk's tiers, as bits.
pub const TIER_DRAM: i64 = 1;
/// A chunk's tiers, as bits.
pub const TIER_NVME: i64 = 2;

/// Kinds of events; (a, b, c) as `_core.pyi` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i64)]
pub enum Kind {
    /// A published chunk is HIT from now on.
    Inserted = 1,
    /// An engine wants an NVMe chunk in DRAM.
    Promote = 2,
    /// A read ended.
    Read = 3,
    /// A write ended.
    Written = 4,
    /// A chunk was used.
    Used = 5,
    /// An engine took or missed leases.
    LeaseWanted = 6,
    /// DRAM slots are free again.
    Freed = 7,
    /// An incarnation was accepted.
    EngineAttached = 8,
    /// Its geometry is known.
    EngineReady = 9,
    /// It is dead, its leases and tickets are back.
    EngineDead = 10,
    /// A chunk was found on NVMe.
    Scanned = 11,
    /// The scan is over.
    ScanDone = 12,
    /// A chunk was quarantined.
    Quarantined = 13,
    /// The NVMe tier changed its state.
    NvmeState = 14,
    /// A chunk survived in the index.
    Adopted = 15,
    /// An incarnation was refused.
    EngineRefused = 16,
}

/// How a read or a write ended; also why a chunk was quarantined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Outcome {
    /// As it should.
    Ok = 0,
    /// The payload's checksum is another one.
    CorruptPayload = 1,
    /// The header is blank, torn or of another shape.
    CorruptHeader = 2,
    /// A valid chunk, but not the one that was asked for.
    WrongKey = 3,
    /// A valid chunk that belongs in another slot.
    Misplaced = 4,
    /// The device failed.
    IoError = 5,
    /// The entry went away meanwhile.
    Gone = 6,
    /// Not in time.
    Timeout = 7,
}

/// Names by number: metric labels.
pub const OUTCOMES: [&str; 8] = ["ok", "corrupt_payload", "corrupt_header", "wrong_key", "misplaced", "io_error", "gone", "timeout"];

/// One event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// What happened.
    pub kind: Kind,
    /// To which chunk.
    pub key: Option<Key16>,
    /// First figure.
    pub a: i64,
    /// Second figure.
    pub b: i64,
    /// Third figure.
    pub c: i64,
}

impl Event {
    /// About a chunk.
    pub fn of_key(kind: Kind, key: Key16, a: i64, b: i64, c: i64) -> Self {
        Self { kind, key: Some(key), a, b, c }
    }

    /// About no chunk.
    pub fn of(kind: Kind, a: i64, b: i64, c: i64) -> Self {
        Self { kind, key: None, a, b, c }
    }
}
