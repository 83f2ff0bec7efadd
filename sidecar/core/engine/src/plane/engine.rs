//! One attached incarnation as the sidecar sees it. Everything read from its control file is copied and judged here.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::Ordering;

use crate::abi::{self, Stated};
use crate::arena::recall_word;
use crate::clock;
use crate::control::{Ctl, Incarnation, STATE_ACCEPTED, STATE_REFUSED, load_id};
use crate::epoch;
use crate::grants::{self, Tail};
use crate::key::KeyMap;
use crate::layout::*;
use crate::ring::Op;
use crate::ticket;

use super::leases::Leases;

/// What one group's chunks look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Group {
    /// Slot class.
    pub class: u8,
    /// Bytes from slot to slot.
    pub stride: u64,
    /// Bytes of a full chunk.
    pub payload: u64,
}

/// Why an incarnation's geometry was not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal(pub u32);

/// The sidecar's record of an incarnation.
#[derive(Debug)]
pub struct Engine {
    pub tag: u8,
    pub id: Incarnation,
    pub ctl: Ctl,
    pub n_ranks: usize,
    pub n_groups: usize,
    /// What it and we both keep to; copied once, as the engine can change its words.
    pub abi: u32,
    pub refused: bool,
    /// Serving it panicked: nothing of it is looked at but its tickets' slots and its locks.
    pub faulted: bool,
    pub ready: bool,
    /// A group without bytes is None.
    pub groups: Vec<Option<Group>>,
    pub keys: Option<KeyMap>,
    /// Ours alone; the copy in shared memory is for the engine and for a successor.
    pub tail: u64,
    pub grant_heads: [u64; MAX_GROUPS],
    pub grant_tails: [u64; MAX_GROUPS],
    pub missed: [u32; MAX_GROUPS],
    pub leases: Leases,
    /// Open tickets: when each was first seen, nanoseconds.
    pub tickets: HashMap<u64, u64>,
    /// Steps of an older epoch are void; ours alone, the copy in shared memory is for the engine.
    pub expelled_epoch: u64,
    /// Since when no process holds a lock byte, nanoseconds.
    pub free_since: Option<u64>,
}

impl Engine {
    pub fn new(tag: u8, id: Incarnation, ctl: Ctl, shape: (usize, usize)) -> Self {
        let (n_ranks, n_groups) = shape;
        let abi = Stated::by_client(&ctl).common().unwrap_or(OLDEST_ABI);
        let mut engine = Self {
            tag,
            id,
            ctl,
            abi,
            n_ranks,
            n_groups,
            refused: false,
            faulted: false,
            ready: false,
            groups: vec![None; n_groups],
            keys: None,
            tail: 0,
            grant_heads: [0; MAX_GROUPS],
            grant_tails: [0; MAX_GROUPS],
            missed: [0; MAX_GROUPS],
            leases: Leases::default(),
            tickets: HashMap::new(),
            expelled_epoch: 0,
            free_since: None,
        };
        engine.resume();
        engine
    }

    /// Take up the rings where a predecessor left them.
    fn resume(&mut self) {
        self.tail = self.ctl.ring().tail.load(Ordering::Relaxed);
        for group in 0..MAX_GROUPS {
            let ring = self.ctl.grant_ring(group);
            self.grant_heads[group] = ring.head.load(Ordering::Relaxed);
            self.grant_tails[group] = Tail::of(ring.tail.load(Ordering::Relaxed)).taken;
            self.missed[group] = self.ctl.header().lease_missed[group].load(Ordering::Relaxed);
        }
    }

    /// (ranks, groups) of a control file, if they are possible.
    pub fn shape_of(ctl: &Ctl) -> Option<(usize, usize)> {
        let n_ranks = ctl.header().n_ranks.load(Ordering::Relaxed) as usize;
        let n_groups = ctl.header().n_groups.load(Ordering::Relaxed) as usize;
        ((1..=MAX_RANKS).contains(&n_ranks) && (1..=MAX_GROUPS).contains(&n_groups)).then_some((n_ranks, n_groups))
    }

    /// True for a control file that says it belongs to this incarnation and is of an ABI that works with ours.
    pub fn speaks_our_abi(ctl: &Ctl, id: &Incarnation) -> bool {
        let header = ctl.header();
        header.magic.load(Ordering::Acquire) == CTL_MAGIC
            && Stated::by_client(ctl).common().is_some()
            && load_id(&header.incarnation) == *id
    }

    /// Let the engine know that it has a tag.
    pub fn accept(&self) {
        let header = self.ctl.header();
        header.tag.store(u32::from(self.tag), Ordering::Relaxed);
        header.state.store(STATE_ACCEPTED, Ordering::SeqCst);
    }

    /// Make every later lookup of the engine MISS.
    pub fn refuse(&mut self, reason: u32) {
        self.refused = true;
        mark_refused(&self.ctl, reason);
    }

    /// True once its file was truncated under us: nothing in it can be believed.
    pub fn is_poisoned(&self) -> bool {
        self.ctl.is_poisoned()
    }

    /// Payload bytes per group once every rank has declared its slices.
    pub fn declared(&self) -> Option<Vec<Vec<u64>>> {
        let ranks = (0..self.n_ranks).map(|rank| self.ctl.rank(rank));
        let all: Vec<_> = ranks.filter(|record| record.ready.load(Ordering::Acquire) == 1).collect();
        if all.len() != self.n_ranks {
            return None;
        }
        let slices_of = |group: usize| all.iter().map(|record| record.slice_bytes[group].load(Ordering::Relaxed)).collect();
        Some((0..self.n_groups).map(slices_of).collect())
    }

    /// Tell the engine where everything lies. `slices[group][rank]` is the copy that the classes were made from.
    pub fn publish_geometry(&mut self, slices: &[Vec<u64>], groups: Vec<Option<Group>>) {
        let header = self.ctl.header();
        for (group, (found, sizes)) in groups.iter().zip(slices).enumerate() {
            let (class, payload) = found.map_or((0, 0), |found| (found.class, found.payload));
            header.class[group].store(u32::from(class), Ordering::Relaxed);
            header.payload_bytes[group].store(payload, Ordering::Relaxed);
            let mut offset = PAGE_BYTES;
            for (rank, bytes) in sizes.iter().enumerate() {
                self.ctl.rank(rank).offset[group].store(offset, Ordering::Relaxed);
                offset += bytes;
            }
        }
        header.geometry_ready.store(1, Ordering::Release);
        self.groups = groups;
        self.ready = true;
    }

    /// The geometry that a predecessor published, if the class table still bears it out.
    pub fn recall_geometry(&mut self, stride_of_class: impl Fn(u8) -> u64) -> Result<(), Refusal> {
        let header = self.ctl.header();
        if header.geometry_ready.load(Ordering::Acquire) != 1 {
            return Ok(());
        }
        let recall = |group: usize| {
            let payload = header.payload_bytes[group].load(Ordering::Relaxed);
            let class = header.class[group].load(Ordering::Relaxed).min(u32::from(u8::MAX)) as u8;
            match stride_of(payload) {
                None if payload == 0 => Ok(None),
                Some(stride) if stride == stride_of_class(class) => Ok(Some(Group { class, stride, payload })),
                _ => Err(Refusal(crate::control::REFUSED_FAULT)),
            }
        };
        self.groups = (0..self.n_groups).map(recall).collect::<Result<_, _>>()?;
        self.ready = true;
        Ok(())
    }

    /// The next operation, copied; None when the ring is empty. Err: head and tail cannot both be right; the ring was emptied.
    pub fn next_op(&mut self) -> Result<Option<Op>, ()> {
        let head = self.ctl.ring().head.load(Ordering::Acquire);
        match head.wrapping_sub(self.tail) {
            0 => Ok(None),
            waiting if waiting <= RING_OPS as u64 => Ok(Some(Op::load(self.ctl.op(self.tail)))),
            _ => {
                self.tail = head;
                self.ctl.ring().tail.store(head, Ordering::Release);
                Err(())
            }
        }
    }

    /// The operation at the tail took effect.
    pub fn op_done(&mut self) {
        self.tail = self.tail.wrapping_add(1);
        self.ctl.ring().tail.store(self.tail, Ordering::Release);
    }

    /// The step that it is in is void.
    pub fn is_expelled(&self) -> bool {
        let active = self.ctl.header().active_epoch.load(Ordering::Acquire);
        active != 0 && active < self.expelled_epoch
    }

    /// True when it can no longer hold, other than in a ticket, what was unlinked before `epoch`.
    pub fn has_passed(&self, epoch: u64) -> bool {
        epoch::passed(&self.ctl.header().active_epoch, epoch) || self.is_expelled()
    }

    /// It looks whether it was expelled; one that does not must be waited for, however long its step is.
    pub fn can_be_expelled(&self) -> bool {
        self.abi >= abi::EXPULSION
    }

    /// Wait no longer for its step to end.
    pub fn expel(&mut self, epoch: u64) {
        self.expelled_epoch = epoch;
        epoch::expel(&self.ctl.header().expelled_epoch, epoch);
    }

    /// Operations waiting.
    pub fn ring_depth(&self) -> u64 {
        self.ctl.ring().head.load(Ordering::Relaxed).wrapping_sub(self.tail).min(RING_OPS as u64)
    }

    /// The tail that a group's grant ring shows.
    pub fn grant_tail(&self, group: usize) -> Tail {
        Tail::of(self.ctl.grant_ring(group).tail.load(Ordering::Acquire))
    }

    /// It looks for what was taken back from its rings; one that does not keeps what it was granted.
    pub fn can_be_recalled_from(&self) -> bool {
        self.abi >= abi::RECALL
    }

    /// Slots of a group that were granted and not taken, by the tail that the ring shows.
    pub fn idle_grants(&self, group: usize) -> u64 {
        self.grant_tail(group).waiting(self.grant_heads[group], GRANT_SLOTS as u64)
    }

    /// Copies of the slots at the front of a group's grant ring.
    pub fn granted(&self, group: usize, tail: Tail, count: u64) -> Vec<u32> {
        (0..count).map(|step| self.ctl.grant_slot(group, tail.taken + step).load(Ordering::Relaxed)).collect()
    }

    /// Take so many slots back from the front of a group's grant ring; false: the engine was there first.
    pub fn recall_grants(&mut self, group: usize, tail: Tail, count: u64) -> bool {
        let recalled = grants::recall(&self.ctl.grant_ring(group).tail, tail, count);
        if recalled {
            // What we took is nothing that the engine wanted.
            self.grant_tails[group] = self.grant_tails[group].wrapping_add(count);
        }
        recalled
    }

    /// Put one slot into the grant ring.
    pub fn push_grant(&mut self, group: usize, slot: u32) {
        let head = self.grant_heads[group];
        self.ctl.grant_slot(group, head).store(slot, Ordering::Relaxed);
        crate::crash::point("grant-written");
        self.grant_heads[group] = head.wrapping_add(1);
        self.ctl.grant_ring(group).head.store(self.grant_heads[group], Ordering::Release);
    }

    /// True when `slot` is the last one that a predecessor made visible in some grant ring.
    pub fn was_granted_last(&self, slot: u32) -> bool {
        (0..self.n_groups).any(|group| {
            let head = self.grant_heads[group];
            head > 0 && self.ctl.grant_slot(group, head - 1).load(Ordering::Relaxed) == slot
        })
    }

    /// True when a predecessor took back what it had marked with this [`recall_word`].
    pub fn was_recalled(&self, word: u64) -> bool {
        (0..self.n_groups).any(|group| {
            let before = self.grant_tail(group).recalls.wrapping_sub(1);
            word == recall_word(group, before)
        })
    }

    /// Slots taken plus slots missed since the last call, per group with any.
    pub fn wanted(&mut self) -> Vec<(usize, u64)> {
        let mut wanted = Vec::new();
        for group in 0..self.n_groups {
            let tail = self.grant_tail(group).taken;
            let missed = self.ctl.header().lease_missed[group].load(Ordering::Acquire);
            let taken = tail.wrapping_sub(self.grant_tails[group]).min(GRANT_SLOTS as u64);
            let sum = taken + u64::from(missed.wrapping_sub(self.missed[group])).min(GRANT_SLOTS as u64);
            (self.grant_tails[group], self.missed[group]) = (tail, missed);
            if sum > 0 {
                wanted.push((group, sum));
            }
        }
        wanted
    }

    /// Release the tickets that every rank has acknowledged; their slots, for the counters.
    pub fn release_tickets(&mut self) -> Vec<u32> {
        let mut released = Vec::new();
        let now = clock::now_ns();
        let mut open = HashMap::new();
        for place in 0..MAX_TICKETS {
            let record = self.ctl.ticket(place);
            let id = record.id.load(Ordering::Acquire);
            if id == 0 {
                continue;
            }
            if ticket::is_acknowledged(id, (0..self.n_ranks).map(|rank| self.ctl.ack(rank, place))) {
                let before = released.len();
                released.extend(slots_of(record));
                // Ended by the engine meanwhile: what was read may be its next ticket's.
                if !ticket::end(&record.id, id) {
                    released.truncate(before);
                }
            } else {
                open.insert(id, self.tickets.get(&id).copied().unwrap_or(now));
            }
        }
        self.tickets = open;
        released
    }

    /// Every slot that an open ticket names. Read after this engine passed the epoch, and never before.
    pub fn pinned(&self, into: &mut HashSet<u32>) {
        for place in 0..MAX_TICKETS {
            let record = self.ctl.ticket(place);
            if record.id.load(Ordering::Acquire) != 0 {
                into.extend(slots_of(record));
            }
        }
    }
}

/// Mark a control file, also one that never got a tag.
pub fn mark_refused(ctl: &Ctl, reason: u32) {
    ctl.header().refused_reason.store(reason, Ordering::Relaxed);
    ctl.header().state.store(STATE_REFUSED, Ordering::SeqCst);
}

fn slots_of(record: &TicketRecord) -> impl Iterator<Item = u32> {
    let count = (record.n_slots.load(Ordering::Relaxed) as usize).min(MAX_TICKET_SLOTS);
    record.slots[..count].iter().map(|slot| slot.load(Ordering::Relaxed))
}
