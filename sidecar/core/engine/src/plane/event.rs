//! What a poll reports.

use crate::key::Key16;

use super::TierState;

/// A chunk's tiers, as bits.
pub const TIER_DRAM: u8 = 1;
/// A chunk's tiers, as bits.
pub const TIER_NVME: u8 = 2;

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

/// One event. `class` is a slot class, `tag` an engine's place in the incarnation table, `tiers` bits of `TIER_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A published chunk is HIT from now on.
    Inserted { key: Key16, class: u8, tag: u8 },
    /// An engine wants an NVMe chunk in DRAM, `deadline_ms` from now at the latest.
    Promote { key: Key16, class: u8, tag: u8, deadline_ms: u32 },
    /// A read ended after `took_ns`.
    Read { key: Key16, class: u8, outcome: Outcome, took_ns: u64 },
    /// A write ended.
    Written { key: Key16, class: u8, outcome: Outcome },
    /// A chunk was used.
    Used { key: Key16, tag: u8, tiers: u8 },
    /// An engine took or missed `count` leases of a group.
    LeaseWanted { tag: u8, group: u8, count: u64 },
    /// `count` DRAM slots are free again.
    Freed { class: u8, count: u64 },
    /// An incarnation was accepted.
    EngineAttached { tag: u8, ranks: u32, groups: u32 },
    /// Its geometry is known.
    EngineReady { tag: u8, ranks: u32, groups: u32 },
    /// It is dead, its leases and tickets are back.
    EngineDead { tag: u8, leases: u64, tickets: u64 },
    /// An incarnation was refused (`control::REFUSED_*`); one that never got a place has no tag.
    EngineRefused { tag: Option<u8>, reason: u32 },
    /// A chunk was found on NVMe after a start.
    Scanned { key: Key16, class: u8, generation: u64 },
    /// The scan is over.
    ScanDone { chunks: u64, faults: u64 },
    /// A chunk was quarantined in one tier; its key may be unreadable.
    Quarantined { key: Option<Key16>, outcome: Outcome, tier: u8 },
    /// The NVMe tier changed its state.
    NvmeState { state: TierState },
    /// A chunk survived in the index; told once after open, least recently used first.
    Adopted { key: Key16, class: u8, tiers: u8, last_use: u32 },
}
