//! The bytes that two processes share: index file and control file. `docs/formats.md` holds the same tables and a test compares them.
//!
//! Every struct is `repr(C)`, little-endian, made of atomics, with size and offsets asserted at compile time. `crate::header` has the slot header.

use std::mem::offset_of;
use std::sync::atomic::{AtomicU32, AtomicU64};

use crate::map::SharedCell;
use crate::seqlock::Entry;

/// The version of everything below. It works with itself and the one before (`crate::abi`).
pub const ABI: u32 = 2;
/// The oldest version that this build works with.
pub const OLDEST_ABI: u32 = ABI - 1;
/// `b"SPWINDX1"` as a little-endian word.
pub const INDEX_MAGIC: u64 = u64::from_le_bytes(*b"SPWINDX1");
/// `b"SPWCTRL1"` as a little-endian word.
pub const CTL_MAGIC: u64 = u64::from_le_bytes(*b"SPWCTRL1");

/// A slot number times this is its offset in the arena; also the size of a slot's header.
pub const PAGE_BYTES: u64 = 4096;
/// The unit in which slot classes draw arena memory; the last one of an arena may be less.
pub const EXTENT_BYTES: u64 = 64 << 20;
/// The smallest slot, and what one record of the slot table stands for.
pub const MIN_STRIDE_BYTES: u64 = 64 << 10;
/// Slot classes: one per stride ever seen.
pub const MAX_CLASSES: usize = 64;
/// Incarnations that can be attached at once.
pub const MAX_INCARNATIONS: usize = 64;
/// Ranks of one incarnation.
pub const MAX_RANKS: usize = 64;
/// KV groups of one incarnation.
pub const MAX_GROUPS: usize = 16;
/// Operations that fit in a submission ring.
pub const RING_OPS: usize = 4096;
/// Slots that wait in one group's grant ring.
pub const GRANT_SLOTS: usize = 1024;
/// Open tickets of one incarnation.
pub const MAX_TICKETS: usize = 256;
/// Slots that one ticket can pin.
pub const MAX_TICKET_SLOTS: usize = 1024;
/// Entries that one key may lie in.
pub const PROBE_WINDOW: u64 = 32;
/// No DRAM slot.
pub const NO_DRAM: u32 = u32::MAX;
/// No NVMe slot.
pub const NO_NVME: u64 = u64::MAX;
/// The scheduler's lock byte; rank r has the byte 1 + r further.
pub const LOCK_BYTE: u64 = 1 << 40;

macro_rules! layout {
    ($(#[$meta:meta])* $name:ident: $size:expr, { $($(#[$fmeta:meta])* $field:ident: $ty:ty = $offset:expr),* $(,)? }) => {
        $(#[$meta])*
        #[repr(C)]
        #[derive(Debug)]
        pub struct $name { $($(#[$fmeta])* pub $field: $ty),* }
        const _: () = {
            assert!(size_of::<$name>() == $size);
            $(assert!(offset_of!($name, $field) == $offset);)*
        };
        impl $name {
            /// (field, offset, bytes), as docs/formats.md states them.
            pub const FIELDS: &'static [(&'static str, usize, usize)] = &[$((stringify!($field), $offset, size_of::<$ty>())),*];
        }
        // SAFETY: repr(C) of atomics; the assertions above leave no room for padding that is not a named field.
        unsafe impl SharedCell for $name {}
    };
}

layout! {
    /// Page 0 of the index file. Written by the sidecar alone.
    IndexHeader: 176, {
        /// [`INDEX_MAGIC`]; zeroed when the file is retired, after which every lookup in it is MISS.
        magic: AtomicU64 = 0,
        /// The oldest ABI of a client that can use this file.
        abi: AtomicU32 = 8,
        /// NVMe tier: 0 off, 1 scanning, 2 active, 3 broken. Chunks that are only on NVMe are MISS in 0 and 3.
        nvme_state: AtomicU32 = 12,
        /// One more at each start of a daemon on these files; marks who submitted a READING slot's read.
        daemon_incarnation: AtomicU64 = 16,
        /// Bumped to recycle; never 0.
        global_epoch: AtomicU64 = 24,
        /// Changes whenever an entry became hit or miss.
        progress: AtomicU64 = 32,
        /// CLOCK_MONOTONIC in nanoseconds, at most 200 ms old while the daemon lives.
        heartbeat_ns: AtomicU64 = 40,
        /// Arena bytes from its start that are backed by memory.
        faulted_bytes: AtomicU64 = 48,
        /// Size of the arena file.
        arena_bytes: AtomicU64 = 56,
        /// Entries, a multiple of 64.
        entry_count: AtomicU64 = 64,
        /// Offset of the entries.
        entries_offset: AtomicU64 = 72,
        /// Offset of the class table.
        classes_offset: AtomicU64 = 80,
        /// Offset of the incarnation table.
        incarnations_offset: AtomicU64 = 88,
        /// Offset of the extent table.
        extents_offset: AtomicU64 = 96,
        /// Offset of the slot table.
        slots_offset: AtomicU64 = 104,
        /// Size of the index file.
        file_bytes: AtomicU64 = 112,
        /// The highest chunk generation given out.
        generation: AtomicU64 = 120,
        /// The NVMe store that the entries' nvme_slots point into; zero: none.
        nvme_store_id: [AtomicU64; 2] = 128,
        /// 1 once every slot of that store is either in the entries or free.
        scan_done: AtomicU32 = 144,
        /// Counts uses; entries' last_use is its value at their last use.
        use_clock: AtomicU32 = 148,
        /// [`ABI`] of the sidecar; 0: ABI 1.
        sidecar_abi: AtomicU32 = 152,
        /// Zero.
        spare_word: AtomicU32 = 156,
        /// Zero.
        spare: [AtomicU64; 2] = 160,
    }
}

layout! {
    /// One slot class.
    ClassRecord: 8, {
        /// Bytes from one slot to the next; 0: unused.
        stride_bytes: AtomicU64 = 0,
    }
}

layout! {
    /// One attached incarnation; its place in the table is its tag.
    IncarnationRecord: 64, {
        /// The incarnation's random id.
        id: [AtomicU64; 2] = 0,
        /// 0 free, 1 attached, 2 refused. Stored after the id.
        state: AtomicU32 = 16,
        /// Ranks in the upper half, groups in the lower.
        shape: AtomicU32 = 20,
        /// Zero.
        spare: AtomicU64 = 24,
        /// What its later operations are under; zero: none yet.
        fingerprint: [AtomicU64; 4] = 32,
    }
}

layout! {
    /// One slot's state, at arena offset / 64 KiB.
    SlotRecord: 16, {
        /// Bits 0-7 state, 8-15 tag, 16-23 class, 24-31 zero, 32-63 since, in seconds of CLOCK_MONOTONIC.
        word: AtomicU64 = 0,
        /// READING: the daemon_incarnation that submitted the read. RECALLING: bits 0-15 the recalls that the grant ring showed, 32-63 its group.
        incarnation: AtomicU64 = 8,
    }
}

layout! {
    /// Page 0 of a control file.
    CtlHeader: 576, {
        /// [`CTL_MAGIC`].
        magic: AtomicU64 = 0,
        /// The oldest ABI of a sidecar that can serve this client.
        abi: AtomicU32 = 8,
        /// Ranks, at most 64.
        n_ranks: AtomicU32 = 12,
        /// The incarnation's random id.
        incarnation: [AtomicU64; 2] = 16,
        /// KV groups, at most 16.
        n_groups: AtomicU32 = 32,
        /// Sidecar: 0 new, 1 accepted, 2 refused or dropped.
        state: AtomicU32 = 36,
        /// Sidecar: index in the incarnation table.
        tag: AtomicU32 = 40,
        /// Sidecar: why refused.
        refused_reason: AtomicU32 = 44,
        /// Sidecar: 1 once classes, strides, payloads and offsets below are final. Lookups are MISS until then.
        geometry_ready: AtomicU32 = 48,
        /// [`ABI`] of the engine's client; 0: ABI 1.
        client_abi: AtomicU32 = 52,
        /// Scheduler: the global epoch at the first lookup of its step; 0: quiescent.
        active_epoch: AtomicU64 = 56,
        /// Sidecar, per group: payload bytes of a full chunk; 0: the group stores nothing.
        payload_bytes: [AtomicU64; MAX_GROUPS] = 64,
        /// Sidecar, per group: slot class.
        class: [AtomicU32; MAX_GROUPS] = 192,
        /// Scheduler, per group: slots asked for and not got, a running sum.
        lease_missed: [AtomicU32; MAX_GROUPS] = 256,
        /// Scheduler: the counters of `COUNTERS`.
        counters: [AtomicU64; 24] = 320,
        /// Sidecar: steps of an older epoch than this are void: a ticket written in one pins nothing.
        expelled_epoch: AtomicU64 = 512,
        /// Zero.
        pad_expelled: [AtomicU64; 7] = 520,
    }
}

layout! {
    /// What one rank holds of a chunk.
    RankRecord: 320, {
        /// Rank, per group: its bytes per chunk.
        slice_bytes: [AtomicU64; MAX_GROUPS] = 0,
        /// Sidecar, per group: where they start, from the slot's start.
        offset: [AtomicU64; MAX_GROUPS] = 128,
        /// Rank: 1 once slice_bytes are final.
        ready: AtomicU64 = 256,
        /// Zero.
        spare: [AtomicU64; 7] = 264,
    }
}

layout! {
    /// One operation of the submission ring.
    OpRecord: 64, {
        /// Bits 0-31 op, 32-63 group.
        op_group: AtomicU64 = 0,
        /// Bits 0-31 slot, 32-63 length.
        slot_length: AtomicU64 = 8,
        /// key36 and 4 zero bytes; FINGERPRINT: 32 bytes.
        key: [AtomicU64; 5] = 16,
        /// PROMOTE: deadline in milliseconds.
        aux: AtomicU64 = 56,
    }
}

layout! {
    /// Head and tail of a ring, each on a line of its own; both only ever grow, and record i lies at i modulo the ring's size.
    RingHeader: 128, {
        /// Producer: records ever written.
        head: AtomicU64 = 0,
        /// Zero.
        pad_head: [AtomicU64; 7] = 8,
        /// Consumer: records ever consumed, each after it took effect. Grant rings: bits 0-47 slots ever taken by either side, 48-63 the sidecar's recalls.
        tail: AtomicU64 = 64,
        /// Zero.
        pad_tail: [AtomicU64; 7] = 72,
    }
}

layout! {
    /// One load ticket.
    TicketRecord: 4160, {
        /// 0 free; else unique in this incarnation, its low 8 bits are its place. Stored after the slots.
        id: AtomicU64 = 0,
        /// Slots pinned.
        n_slots: AtomicU32 = 8,
        /// Zero.
        spare: AtomicU32 = 12,
        /// Slot numbers.
        slots: [AtomicU32; MAX_TICKET_SLOTS] = 16,
        /// Zero.
        pad: [AtomicU64; 6] = 4112,
    }
}

const _: () = {
    assert!(size_of::<Entry>() == 64);
    assert!(offset_of!(Entry, seq) == 0);
    assert!(offset_of!(Entry, meta) == 4);
    assert!(offset_of!(Entry, key) == 8);
    assert!(offset_of!(Entry, dram_slot) == 24);
    assert!(offset_of!(Entry, length) == 28);
    assert!(offset_of!(Entry, nvme_slot) == 32);
    assert!(offset_of!(Entry, generation) == 40);
    assert!(offset_of!(Entry, namespace) == 44);
    assert!(offset_of!(Entry, last_use) == 48);
    assert!(offset_of!(Entry, spare) == 52);
};

// SAFETY: repr(C) of atomics without padding, asserted above.
unsafe impl SharedCell for Entry {}

impl Entry {
    /// (field, offset, bytes), as docs/formats.md states them.
    pub const FIELDS: &'static [(&'static str, usize, usize)] = &[
        ("seq", 0, 4),
        ("meta", 4, 4),
        ("key", 8, 16),
        ("dram_slot", 24, 4),
        ("length", 28, 4),
        ("nvme_slot", 32, 8),
        ("generation", 40, 4),
        ("namespace", 44, 4),
        ("last_use", 48, 4),
        ("spare", 52, 12),
    ];
}

/// Offsets of a control file's sections.
pub mod ctl {
    use super::*;

    /// Rank table.
    pub const RANKS: usize = 4096;
    /// Submission ring: its header, then its records.
    pub const RING: usize = RANKS + MAX_RANKS * size_of::<RankRecord>();
    /// Records of the submission ring.
    pub const OPS: usize = RING + size_of::<RingHeader>();
    /// Grant rings, one per group: a header, then the slots.
    pub const GRANTS: usize = OPS + RING_OPS * size_of::<OpRecord>();
    /// Bytes of one grant ring.
    pub const GRANT_BYTES: usize = size_of::<RingHeader>() + GRANT_SLOTS * 4;
    /// Ticket table.
    pub const TICKETS: usize = GRANTS + MAX_GROUPS * GRANT_BYTES;
    /// Acknowledgements, `[rank][ticket]` u64.
    pub const ACKS: usize = TICKETS + MAX_TICKETS * size_of::<TicketRecord>();
    /// Size of the file.
    pub const FILE_BYTES: usize = (ACKS + MAX_RANKS * MAX_TICKETS * 8).next_multiple_of(PAGE_BYTES as usize);
}

/// (section, offset) of a control file, as docs/formats.md states them.
pub const CTL_SECTIONS: &[(&str, usize)] = &[
    ("ranks", ctl::RANKS),
    ("ring", ctl::RING),
    ("ops", ctl::OPS),
    ("grants", ctl::GRANTS),
    ("tickets", ctl::TICKETS),
    ("acks", ctl::ACKS),
    ("end", ctl::FILE_BYTES),
];

/// Operations of the submission ring.
pub mod op {
    /// key: 32 bytes of fingerprint, for all later operations.
    pub const FINGERPRINT: u32 = 1;
    /// key, group, slot, length: every rank has filled this leased slot.
    pub const PUBLISH: u32 = 2;
    /// slot: a lease comes back unused.
    pub const RELEASE: u32 = 3;
    /// key, group, aux: wanted in DRAM within aux milliseconds.
    pub const PROMOTE: u32 = 4;
    /// key: used.
    pub const USE: u32 = 5;
}

/// Names of a control file's counters, by index.
pub const COUNTERS: &[&str] = &[
    "lookup_keys",
    "hit_keys",
    "nvme_keys",
    "miss_keys",
    "load_failures",
    "store_declined",
    "loaded_chunks",
    "stored_chunks",
    "gate_declined",
    "ring_full",
    "looked_up_tokens",
    "fail_open",
    "loaded_dram_tokens",
    "loaded_nvme_tokens",
    "loaded_other_tokens",
    "store_ended",
];
const _: () = assert!(COUNTERS.len() <= 24);

/// Round up to whole pages. For sizes of this crate's own; what an engine wrote is bounded first.
pub const fn align_page(bytes: u64) -> u64 {
    bytes.next_multiple_of(PAGE_BYTES)
}

/// Bytes from one slot to the next for chunks of this payload; None when it would not fit an extent.
pub fn stride_of(payload_bytes: u64) -> Option<u64> {
    // Bounded before it is added to: the figure may be an engine's.
    let fits = (1..=EXTENT_BYTES - PAGE_BYTES).contains(&payload_bytes);
    fits.then(|| align_page(payload_bytes + PAGE_BYTES).max(MIN_STRIDE_BYTES))
}

/// True for a stride that a slot class may have.
pub fn stride_is_valid(stride: u64) -> bool {
    (MIN_STRIDE_BYTES..=EXTENT_BYTES).contains(&stride) && stride.is_multiple_of(PAGE_BYTES)
}
