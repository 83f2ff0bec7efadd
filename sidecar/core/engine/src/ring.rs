//! The submission ring's records as values. The sidecar copies a record once and judges the copy.

use std::sync::atomic::Ordering;

use crate::key::Key36;
use crate::layout::OpRecord;

/// One operation, copied out of or into shared memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Op {
    /// One of [`crate::layout::op`].
    pub op: u32,
    /// KV group.
    pub group: u32,
    /// Slot.
    pub slot: u32,
    /// Payload bytes.
    pub length: u32,
    /// The engine's key, or a fingerprint in its first 32 bytes.
    pub key: Key36,
    /// A deadline in milliseconds.
    pub aux: u64,
}

impl Op {
    /// An operation with nothing but its kind.
    pub fn of(op: u32) -> Self {
        Self { op, group: 0, slot: 0, length: 0, key: [0; 36], aux: 0 }
    }

    /// Copy into the ring; published by the head's Release store that follows.
    pub fn store(&self, record: &OpRecord) {
        record.op_group.store(u64::from(self.op) | u64::from(self.group) << 32, Ordering::Relaxed);
        record.slot_length.store(u64::from(self.slot) | u64::from(self.length) << 32, Ordering::Relaxed);
        let mut bytes = [0; 40];
        bytes[..36].copy_from_slice(&self.key);
        for (word, chunk) in record.key.iter().zip(bytes.chunks_exact(8)) {
            word.store(u64::from_le_bytes(chunk.try_into().expect("chunks of 8")), Ordering::Relaxed);
        }
        record.aux.store(self.aux, Ordering::Relaxed);
    }

    /// Copy out of the ring, each word once.
    pub fn load(record: &OpRecord) -> Self {
        let op_group = record.op_group.load(Ordering::Relaxed);
        let slot_length = record.slot_length.load(Ordering::Relaxed);
        let mut bytes = [0; 40];
        for (word, chunk) in record.key.iter().zip(bytes.chunks_exact_mut(8)) {
            chunk.copy_from_slice(&word.load(Ordering::Relaxed).to_le_bytes());
        }
        let mut key = [0; 36];
        key.copy_from_slice(&bytes[..36]);
        Self {
            op: op_group as u32,
            group: (op_group >> 32) as u32,
            slot: slot_length as u32,
            length: (slot_length >> 32) as u32,
            key,
            aux: record.aux.load(Ordering::Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_round_trips() {
        let record = OpRecord { op_group: 0.into(), slot_length: 0.into(), key: std::array::from_fn(|_| 0.into()), aux: 0.into() };
        let op = Op { op: 2, group: 3, slot: 4, length: 5, key: std::array::from_fn(|i| i as u8), aux: 6 };
        op.store(&record);
        assert_eq!(Op::load(&record), op);
    }
}
