//! The submission rings: each operation is copied, judged, carried out, and only then taken off the ring, so that a successor can do the last one again.

use std::sync::atomic::Ordering;

use crate::arena::{Arena, Slot, SlotState};
use crate::checksum;
use crate::clock;
use crate::header::{NOT_ON_NVME, SlotHeader};
use crate::key::{FINGERPRINT_BYTES, Fingerprint, Key16, KeyMap};
use crate::layout::*;
use crate::ring::Op;
use crate::seqlock::EntryValue;

use super::expected::Ask;
use super::{Event, Hop, InvalidOp, Plane, dram_entry, tiers_of};

/// Operations of one engine per pass; keeps the heart beating and the engines even.
const OPS_PER_PASS: usize = 512;
/// Payload hashed for one engine per pass: about 10 ms.
const BYTES_PER_PASS: u64 = 256 << 20;
/// With this many events waiting for Python the rings are left alone: they then fill, and engines see that.
pub(super) const MAX_EVENTS_WAITING: usize = 1 << 16;

type Judged<T> = std::result::Result<T, InvalidOp>;

/// A publication that passed judgement.
struct Publication {
    key: Key16,
    fingerprint: Fingerprint,
    class: u8,
    stride: u64,
    known: Option<(u64, EntryValue)>,
}

impl Plane {
    /// Serve every engine's ring; true when something is left.
    pub(super) fn serve_rings(&mut self) -> bool {
        let mut left = false;
        for tag in 0..self.engines.len() {
            left |= self.serve_ring(tag, OPS_PER_PASS);
        }
        left
    }

    /// Serve at most `max_ops` of one engine.
    pub(super) fn serve_ring(&mut self, tag: usize, max_ops: usize) -> bool {
        self.contained(tag, false, |plane| plane.serve_operations(tag, max_ops))
    }

    fn serve_operations(&mut self, tag: usize, max_ops: usize) -> bool {
        let mut bytes = 0;
        for _ in 0..max_ops {
            if bytes >= BYTES_PER_PASS || self.events.len() - self.adopted_left >= MAX_EVENTS_WAITING {
                return true;
            }
            let Some(engine) = self.engines[tag].as_mut() else { return false };
            if engine.refused || engine.is_poisoned() {
                return false;
            }
            match engine.next_op() {
                Ok(None) => return false,
                Ok(Some(op)) => bytes += self.carry_out(tag as u8, &op),
                Err(()) => self.counters.invalid(InvalidOp::Ring),
            }
        }
        true
    }

    /// Do one operation and take it off the ring; payload bytes hashed.
    fn carry_out(&mut self, tag: u8, op: &Op) -> u64 {
        let done = match op.op {
            op::FINGERPRINT => self.set_fingerprint(tag, op),
            op::PUBLISH => self.publish(tag, op),
            op::RELEASE => self.release(tag, op.slot),
            op::PROMOTE => self.want_promotion(tag, op),
            op::USE => self.note_use(tag, op),
            _ => Err(InvalidOp::Unknown),
        };
        crate::crash::point("before-tail");
        if let Some(engine) = self.engines[tag as usize].as_mut() {
            engine.op_done();
        }
        done.unwrap_or_else(|invalid| {
            self.counters.invalid(invalid);
            0
        })
    }

    /// Kept in the incarnation table too: the ring moves on, and a successor needs it for what follows.
    fn set_fingerprint(&mut self, tag: u8, op: &Op) -> Judged<u64> {
        let mut fingerprint: Fingerprint = [0; FINGERPRINT_BYTES];
        fingerprint.copy_from_slice(&op.key[..FINGERPRINT_BYTES]);
        for (word, chunk) in self.index.incarnations()[tag as usize].fingerprint.iter().zip(fingerprint.chunks_exact(8)) {
            word.store(u64::from_le_bytes(chunk.try_into().expect("chunks of 8")), Ordering::Relaxed);
        }
        if let Some(engine) = self.engines[tag as usize].as_mut() {
            engine.keys = Some(KeyMap::new(fingerprint));
        }
        Ok(0)
    }

    fn key_under(&mut self, tag: u8, op: &Op) -> Judged<(Key16, Fingerprint)> {
        let engine = self.engines[tag as usize].as_mut().ok_or(InvalidOp::NotReady)?;
        let keys = engine.keys.as_mut().ok_or(InvalidOp::NoFingerprint)?;
        Ok((keys.key16(&op.key), *keys.fingerprint()))
    }

    fn group_of(&self, tag: u8, group: u32) -> Judged<super::engine::Group> {
        let engine = self.engines[tag as usize].as_ref().filter(|engine| engine.ready).ok_or(InvalidOp::NotReady)?;
        engine.groups.get(group as usize).copied().flatten().ok_or(InvalidOp::Group)
    }

    /// The class of a slot that this engine holds a lease of.
    fn leased_class(&self, tag: u8, slot: u32) -> Judged<u8> {
        let leases = self.engines[tag as usize].as_ref().map(|engine| &engine.leases);
        if !leases.is_some_and(|leases| leases.contains(slot)) {
            return Err(InvalidOp::NotLeased);
        }
        let found = Slot::load(self.index.slot(slot));
        let held = found.state == SlotState::Leased && found.tag == tag;
        held.then_some(found.class).ok_or(InvalidOp::NotLeased)
    }

    pub(super) fn end_lease(&mut self, tag: u8, slot: u32) {
        if let Some(engine) = self.engines[tag as usize].as_mut() {
            engine.leases.remove(slot);
        }
    }

    fn release(&mut self, tag: u8, slot: u32) -> Judged<u64> {
        self.leased_class(tag, slot)?;
        self.end_lease(tag, slot);
        self.free_slot(slot);
        Ok(0)
    }

    /// Whatever the judgement, the slot is the engine's no longer: it has let go of it.
    fn publish(&mut self, tag: u8, op: &Op) -> Judged<u64> {
        let class = self.leased_class(tag, op.slot)?;
        self.end_lease(tag, op.slot);
        let stored = self.judge_publication(tag, op, class).and_then(|chunk| self.store_chunk(tag, op, &chunk));
        if !matches!(stored, Ok(true)) {
            self.free_slot(op.slot);
        }
        stored.map(|_| u64::from(op.length))
    }

    fn judge_publication(&mut self, tag: u8, op: &Op, class: u8) -> Judged<Publication> {
        let group = self.group_of(tag, op.group)?;
        if class != group.class {
            return Err(InvalidOp::Slot);
        }
        if op.length == 0 || u64::from(op.length) > group.stride - PAGE_BYTES {
            return Err(InvalidOp::Length);
        }
        let (key, fingerprint) = self.key_under(tag, op)?;
        let known = self.index.find(key);
        if known.is_some_and(|(_, old)| (old.class, old.length) != (class, op.length)) {
            return Err(InvalidOp::Length);
        }
        Ok(Publication { key, fingerprint, class, stride: group.stride, known })
    }

    /// False: the chunk is there already or finds no entry.
    fn store_chunk(&mut self, tag: u8, op: &Op, chunk: &Publication) -> Judged<bool> {
        if self.withdrawn {
            return Ok(false);
        }
        if chunk.known.is_some_and(|(_, old)| old.dram_slot != NO_DRAM) {
            self.counters.duplicates += 1;
            return Ok(false);
        }
        let generation = self.next_generation();
        self.seal_slot(op, &chunk.fingerprint, chunk.stride, generation);
        crate::crash::point("sealed");
        if !self.name_chunk(op, chunk, generation) {
            return Ok(false);
        }
        crate::crash::point("inserted");
        self.mark(op.slot, SlotState::Valid, tag, chunk.class);
        self.due.progress = true;
        self.counters.hop(Hop::EngineToArena, u64::from(op.length), 0);
        self.emit(Event::Inserted { key: chunk.key, class: chunk.class, tag });
        Ok(true)
    }

    fn name_chunk(&mut self, op: &Op, chunk: &Publication, generation: u64) -> bool {
        match chunk.known {
            // On NVMe already: it is not written there again.
            Some((place, old)) => {
                self.change_entry(place, &old, &EntryValue { dram_slot: op.slot, ..old });
                true
            }
            None => {
                let [a, b, c, d, ..] = chunk.fingerprint;
                let namespace = u32::from_le_bytes([a, b, c, d]);
                self.insert_or_displace(&dram_entry(chunk.key, chunk.class, op.slot, op.length, generation, namespace))
            }
        }
    }

    /// Zero the padding, hash, write the header: integrity starts here, with what the ranks left in the slot.
    fn seal_slot(&self, op: &Op, fingerprint: &Fingerprint, stride: u64, generation: u64) {
        let start = Arena::offset(op.slot);
        let bytes = self.arena.bytes();
        let payload = start + PAGE_BYTES as usize;
        let used = op.length as usize;
        let body = (stride - PAGE_BYTES) as usize;
        bytes.zero(payload + used, body - used);
        let header = SlotHeader {
            flags: 0,
            length: u64::from(op.length),
            stride,
            key: op.key,
            fingerprint: *fingerprint,
            generation,
            position: NOT_ON_NVME,
            payload_checksum: bytes.with_bytes(payload, body, checksum::payload),
        };
        let mut page = [0; PAGE_BYTES as usize];
        header.encode_into(&mut page);
        bytes.write(start, &page);
    }

    fn want_promotion(&mut self, tag: u8, op: &Op) -> Judged<u64> {
        let (key, fingerprint) = self.key_under(tag, op)?;
        if let Some((_, value)) = self.index.find(key)
            && value.dram_slot == NO_DRAM
            && value.nvme_slot != NO_NVME
        {
            let ask = self.tier.expected.ask(key, op.key, fingerprint, tag, op.aux, clock::now_ns());
            if let Ask::Tell(deadline_ms) = ask {
                let deadline_ms = deadline_ms.min(u64::from(u32::MAX)) as u32;
                self.emit(Event::Promote { key, class: value.class, tag, deadline_ms });
            }
        }
        Ok(0)
    }

    fn note_use(&mut self, tag: u8, op: &Op) -> Judged<u64> {
        let (key, _) = self.key_under(tag, op)?;
        if let Some((place, value)) = self.index.find(key) {
            self.index.touch(place);
            self.emit(Event::Used { key, tag, tiers: tiers_of(&value) });
        }
        Ok(0)
    }
}
