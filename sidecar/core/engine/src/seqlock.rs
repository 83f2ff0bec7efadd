//! One index entry: a cache line guarded by its own sequence word. One writer, any number of readers in other processes.
//!
//! The writer makes the sequence odd, fences, stores the fields, then makes it even with Release. A reader takes the sequence with Acquire,
//! copies the fields, fences, and takes it again: an odd or changed value means retry, after 8 tries MISS. A writer that dies in between leaves an
//! odd sequence behind, which its successor repairs ([`Entry::repair`]).

use crate::sync::{AtomicU32, AtomicU64, Ordering, fence};

/// How often a reader tries before it answers MISS.
pub const MAX_RETRIES: u32 = 8;
/// Never used: ends a probe.
pub const EMPTY: u8 = 0;
/// Names a chunk.
pub const LIVE: u8 = 1;
/// Used before: does not end a probe.
pub const DELETED: u8 = 2;

/// The shared line. Field meanings: docs/formats.md, entry.
#[repr(C)]
#[derive(Debug)]
pub struct Entry {
    /// Odd while being written.
    pub seq: AtomicU32,
    /// Bits 0-7 state, 8-15 class, 16-31 flags.
    pub meta: AtomicU32,
    /// key16.
    pub key: [AtomicU64; 2],
    /// Slot in the arena or `NO_DRAM`; set only after the checksum was verified.
    pub dram_slot: AtomicU32,
    /// Payload bytes.
    pub length: AtomicU32,
    /// Slot on NVMe or `NO_NVME`.
    pub nvme_slot: AtomicU64,
    /// Rises with every publication.
    pub generation: AtomicU32,
    /// First 4 bytes of the fingerprint.
    pub namespace: AtomicU32,
    /// `use_clock` at its last use. Not under the sequence: readers ignore it.
    pub last_use: AtomicU32,
    /// Zero.
    pub spare: [AtomicU32; 3],
}

/// A consistent copy of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct EntryValue {
    /// [`EMPTY`], [`LIVE`] or [`DELETED`].
    pub state: u8,
    /// Slot class.
    pub class: u8,
    /// key16.
    pub key: [u64; 2],
    /// Slot in the arena.
    pub dram_slot: u32,
    /// Payload bytes.
    pub length: u32,
    /// Slot on NVMe.
    pub nvme_slot: u64,
    /// Rises with every publication.
    pub generation: u32,
    /// First 4 bytes of the fingerprint.
    pub namespace: u32,
}

impl Entry {
    /// A consistent copy, or None when the writer was in the way 8 times.
    #[inline]
    pub fn read(&self) -> Option<EntryValue> {
        for _ in 0..MAX_RETRIES {
            let before = self.seq.load(Ordering::Acquire);
            if before & 1 == 0 {
                let value = self.copy();
                fence(Ordering::Acquire);
                if self.seq.load(Ordering::Relaxed) == before {
                    return Some(value);
                }
            }
            #[cfg(loom)]
            loom::thread::yield_now();
            #[cfg(not(loom))]
            std::hint::spin_loop();
        }
        None
    }

    /// The fields as they are. The one writer may use this on entries it wrote itself.
    #[inline]
    pub fn copy(&self) -> EntryValue {
        let meta = self.meta.load(Ordering::Relaxed);
        EntryValue {
            state: meta as u8,
            class: (meta >> 8) as u8,
            key: [self.key[0].load(Ordering::Relaxed), self.key[1].load(Ordering::Relaxed)],
            dram_slot: self.dram_slot.load(Ordering::Relaxed),
            length: self.length.load(Ordering::Relaxed),
            nvme_slot: self.nvme_slot.load(Ordering::Relaxed),
            generation: self.generation.load(Ordering::Relaxed),
            namespace: self.namespace.load(Ordering::Relaxed),
        }
    }

    /// Replace the fields; the writer only.
    pub fn write(&self, value: &EntryValue) {
        let seq = self.seq.load(Ordering::Relaxed);
        self.seq.store(seq.wrapping_add(1), Ordering::Relaxed);
        fence(Ordering::Release);
        crate::crash::point("entry-odd");
        self.meta.store(u32::from(value.state) | (u32::from(value.class) << 8), Ordering::Relaxed);
        self.key[0].store(value.key[0], Ordering::Relaxed);
        self.key[1].store(value.key[1], Ordering::Relaxed);
        crate::crash::point("entry-torn");
        self.dram_slot.store(value.dram_slot, Ordering::Relaxed);
        self.length.store(value.length, Ordering::Relaxed);
        self.nvme_slot.store(value.nvme_slot, Ordering::Relaxed);
        self.generation.store(value.generation, Ordering::Relaxed);
        self.namespace.store(value.namespace, Ordering::Relaxed);
        self.seq.store(seq.wrapping_add(2), Ordering::Release);
    }

    /// Turn an entry whose writer died inside [`Self::write`] into DELETED; true if it was one. DELETED and not EMPTY: an EMPTY in the middle of
    /// a probe would hide the keys behind it.
    pub fn repair(&self) -> bool {
        let seq = self.seq.load(Ordering::Relaxed);
        if seq & 1 == 0 {
            return false;
        }
        self.meta.store(u32::from(DELETED), Ordering::Relaxed);
        self.seq.store(seq.wrapping_add(1), Ordering::Release);
        true
    }
}
