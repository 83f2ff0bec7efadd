//! The engine's side: look up, pin, lease, publish. Runs inside a foreign process, so it never blocks and never fails after construction.
//!
//! One [`Attachment`] per role (scheduler or rank) and process. All attachments of a process that belong to one incarnation share one descriptor of
//! its control file, because POSIX locks of a file end when the process closes any descriptor of it.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, OnceLock, Weak};

use rustix::fs::{Mode, OFlags};

use crate::clock;
use crate::control::{self, Ctl, Incarnation, STATE_ACCEPTED};
use crate::epoch;
use crate::error::{CoreError, Result};
use crate::grants;
use crate::index::Index;
use crate::key::{FINGERPRINT_BYTES, Fingerprint, KEY_BYTES, Key16, Key36, KeyMap};
use crate::layout::*;
use crate::ring::Op;
use crate::ticket;

/// [`Attachment::lookup`]: not here.
pub const MISS: u8 = 0;
/// [`Attachment::lookup`]: in DRAM, verified, cannot be recycled before the end of the step.
pub const HIT: u8 = 1;
/// [`Attachment::lookup`]: on NVMe and promotable.
pub const NVME: u8 = 2;

/// A heartbeat older than this is no living sidecar: nothing that needs its work is promised any more.
const HEARTBEAT_MAX_NS: u64 = 1_000_000_000;
/// How many lines of the index are fetched ahead in a batch.
const PREFETCH_KEYS: usize = 16;

/// Geometry of one group: stride, payload bytes, and per rank (offset from the slot's start, bytes).
pub type GroupGeometry = (u64, u64, Vec<(u64, u64)>);

/// A control file as this process has it open, with the roles it holds.
#[derive(Debug)]
struct SharedCtl {
    ctl: Ctl,
    roles: Mutex<Vec<i32>>,
}

impl SharedCtl {
    fn claim(&self, rank: i32) -> Result<()> {
        let mut roles = self.roles.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if roles.contains(&rank) {
            return Err(CoreError::RoleTaken { path: self.ctl.path().to_owned(), rank });
        }
        self.ctl.lock(rank)?;
        roles.push(rank);
        Ok(())
    }

    fn give_back(&self, rank: i32) {
        self.roles.lock().unwrap_or_else(std::sync::PoisonError::into_inner).retain(|held| *held != rank);
        self.ctl.unlock(rank);
    }
}

fn shared(run: &Path, incarnation: &Incarnation, n_ranks: u32, n_groups: u32, rank: i32) -> Result<Arc<SharedCtl>> {
    static OPEN: OnceLock<Mutex<HashMap<PathBuf, Weak<SharedCtl>>>> = OnceLock::new();
    let mut open = OPEN.get_or_init(Mutex::default).lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    open.retain(|_, held| held.strong_count() > 0);
    let path = control::path_of(run, incarnation);
    if let Some(held) = open.get(&path).and_then(Weak::upgrade) {
        held.claim(rank)?;
        return Ok(held);
    }
    let ctl = Ctl::create_or_open(run, incarnation, n_ranks, n_groups, rank)?;
    let held = Arc::new(SharedCtl { ctl, roles: Mutex::new(vec![rank]) });
    open.insert(path, Arc::downgrade(&held));
    Ok(held)
}

/// One role of one engine incarnation.
#[derive(Debug)]
pub struct Attachment {
    root: PathBuf,
    shared: Arc<SharedCtl>,
    rank: i32,
    n_ranks: usize,
    n_groups: usize,
    index: Option<Index>,
    doorbell: Option<OwnedFd>,
    keys: Option<KeyMap>,
    in_step: bool,
    tickets_taken: u64,
    batch: Vec<Key16>,
}

impl Drop for Attachment {
    fn drop(&mut self) {
        if self.is_scheduler() {
            self.end_step();
        }
        self.shared.give_back(self.rank);
    }
}

impl Attachment {
    /// Attach a role; -1 is the scheduler. Makes the incarnation's control file if it is the first.
    pub fn new(root: &Path, incarnation: &Incarnation, n_ranks: u32, n_groups: u32, rank: i32) -> Result<Self> {
        check_shape(n_ranks, n_groups, rank)?;
        let run = root.join("run");
        if let Err(source) = std::fs::metadata(&run) {
            return Err(CoreError::Absent { path: run, source });
        }
        let shared = shared(&run, incarnation, n_ranks, n_groups, rank)?;
        let mut attachment = Self {
            root: root.to_owned(),
            shared,
            rank,
            n_ranks: n_ranks as usize,
            n_groups: n_groups as usize,
            index: None,
            doorbell: None,
            keys: None,
            in_step: false,
            tickets_taken: 0,
            batch: Vec::new(),
        };
        attachment.recall();
        attachment.ring_doorbell();
        Ok(attachment)
    }

    /// A scheduler that attaches again in the same incarnation goes on with new ticket ids.
    fn recall(&mut self) {
        let ctl = &self.shared.ctl;
        let highest = (0..MAX_TICKETS).flat_map(|place| {
            let acks = (0..self.n_ranks).map(move |rank| ctl.ack(rank, place).load(Ordering::Relaxed));
            acks.chain(std::iter::once(ctl.ticket(place).id.load(Ordering::Relaxed)))
        });
        self.tickets_taken = highest.max().unwrap_or(0) >> 8;
    }

    fn is_scheduler(&self) -> bool {
        self.rank < 0
    }

    fn ctl(&self) -> &Ctl {
        &self.shared.ctl
    }

    fn need_scheduler(&self, what: &str) -> Result<()> {
        if self.is_scheduler() {
            return Ok(());
        }
        Err(CoreError::invalid(format!("{what}: rank {} called it, only the scheduler (-1) may", self.rank)))
    }

    fn need_group(&self, group: usize) -> Result<()> {
        if group < self.n_groups {
            return Ok(());
        }
        Err(CoreError::invalid(format!("group is {group}, this incarnation has {}", self.n_groups)))
    }

    /// Map the index once the sidecar made it; false: ask again. An error: the sidecar's ABI does not work with ours.
    pub fn try_map(&mut self) -> Result<bool> {
        if self.index.as_ref().is_some_and(Index::is_current) {
            return Ok(true);
        }
        // A retired index stays mapped only while it is all MISS; its successor belongs to another arena file.
        let index = match Index::open(&self.root.join("index/index"), false) {
            Ok(index) => index,
            Err(error @ CoreError::Abi { .. }) => return Err(error),
            Err(_) => return Ok(false),
        };
        let arena = std::fs::metadata(self.arena_path()).map(|found| found.len());
        if arena.is_ok_and(|len| len == index.shape().arena_bytes) {
            self.index = Some(index);
            self.ring_doorbell();
        }
        Ok(self.index.is_some())
    }

    /// A rank's bytes per chunk, per group.
    pub fn declare_slices(&mut self, slice_bytes: &[u64]) -> Result<()> {
        if self.is_scheduler() || slice_bytes.len() != self.n_groups {
            let (rank, given, want) = (self.rank, slice_bytes.len(), self.n_groups);
            return Err(CoreError::invalid(format!("declare_slices: {given} figures from rank {rank}, a rank gives {want}")));
        }
        let record = self.ctl().rank(self.rank as usize);
        for (word, bytes) in record.slice_bytes.iter().zip(slice_bytes) {
            word.store(*bytes, Ordering::Relaxed);
        }
        record.ready.store(1, Ordering::Release);
        self.ring_doorbell();
        Ok(())
    }

    /// Where each rank's bytes lie in a slot; None until every rank declared and the sidecar answered.
    pub fn geometry(&self) -> Option<Vec<GroupGeometry>> {
        if !self.is_ready() {
            return None;
        }
        Some((0..self.n_groups).map(|group| self.group_geometry(group)).collect())
    }

    fn group_geometry(&self, group: usize) -> GroupGeometry {
        let payload = self.payload_bytes(group);
        let slices = (0..self.n_ranks).map(|rank| {
            let record = self.ctl().rank(rank);
            (record.offset[group].load(Ordering::Relaxed), record.slice_bytes[group].load(Ordering::Relaxed))
        });
        (stride_of(payload).unwrap_or(0), payload, slices.collect())
    }

    fn payload_bytes(&self, group: usize) -> u64 {
        self.ctl().header().payload_bytes[group].load(Ordering::Relaxed)
    }

    fn is_ready(&self) -> bool {
        let header = self.ctl().header();
        header.state.load(Ordering::SeqCst) == STATE_ACCEPTED && header.geometry_ready.load(Ordering::Acquire) == 1
    }

    /// (state, refusal reason) as the sidecar set them.
    pub fn state(&self) -> (u32, u32) {
        let header = self.ctl().header();
        (header.state.load(Ordering::Acquire), header.refused_reason.load(Ordering::Relaxed))
    }

    /// The sidecar's number for this incarnation.
    pub fn tag(&self) -> Option<u32> {
        let header = self.ctl().header();
        (header.state.load(Ordering::Acquire) == STATE_ACCEPTED).then(|| header.tag.load(Ordering::Relaxed))
    }

    /// Put all later keys under a fingerprint; false: ring full.
    pub fn set_fingerprint(&mut self, fingerprint: Fingerprint) -> Result<bool> {
        self.need_scheduler("set_fingerprint")?;
        let mut op = Op::of(op::FINGERPRINT);
        op.key[..FINGERPRINT_BYTES].copy_from_slice(&fingerprint);
        let taken = self.push(1, |_| op) == 1;
        if taken {
            self.keys = Some(KeyMap::new(fingerprint));
        }
        Ok(taken)
    }

    /// From here to [`Self::end_step`] no slot that a lookup answers HIT for is recycled.
    pub fn begin_step(&mut self) {
        if let Some(index) = &self.index
            && self.is_scheduler()
        {
            epoch::begin(&index.header().global_epoch, &self.ctl().header().active_epoch);
            self.in_step = true;
        }
    }

    /// The engine is quiescent: it may touch leased slots and those of its tickets only.
    pub fn end_step(&mut self) {
        if self.is_scheduler() {
            epoch::end(&self.ctl().header().active_epoch);
            self.in_step = false;
        }
    }

    /// True when lookups may answer anything but MISS. Judged inside a step, after its fence: a sidecar that drops this incarnation sets the state
    /// first and then looks at the epoch word, so one of the two sees the other.
    fn can_look_up(&self) -> bool {
        let is_attached = self.is_ready() && self.index.as_ref().is_some_and(Index::is_current);
        self.in_step && self.keys.is_some() && is_attached && !self.is_expelled()
    }

    /// The sidecar waited long enough for this step to end.
    fn is_expelled(&self) -> bool {
        let header = self.ctl().header();
        epoch::is_expelled(&header.active_epoch, &header.expelled_epoch)
    }

    /// One answer per key: [`MISS`], [`HIT`] or [`NVME`]. Begins the step if none is open.
    pub fn lookup(&mut self, keys: &[u8], answers: &mut [u8]) -> Result<()> {
        self.need_scheduler("lookup")?;
        let keys = split_keys(keys)?;
        answers.fill(MISS);
        if !self.in_step {
            self.begin_step();
        }
        if !self.can_look_up() {
            return Ok(());
        }
        let nvme = self.nvme_is_open();
        let (Some(index), Some(map)) = (&self.index, &mut self.keys) else { return Ok(()) };
        self.batch.clear();
        self.batch.extend(keys.iter().map(|key| map.key16(key)));
        for key in self.batch.iter().take(PREFETCH_KEYS) {
            index.prefetch(*key);
        }
        for (at, (key, answer)) in self.batch.iter().zip(answers).enumerate() {
            if let Some(ahead) = self.batch.get(at + PREFETCH_KEYS) {
                index.prefetch(*ahead);
            }
            *answer = match index.lookup(*key) {
                Some(found) if found.dram_slot != NO_DRAM => HIT,
                Some(found) if found.nvme_slot != NO_NVME && nvme => NVME,
                _ => MISS,
            };
        }
        Ok(())
    }

    fn nvme_is_open(&self) -> bool {
        let state = self.index.as_ref().map_or(0, |index| index.header().nvme_state.load(Ordering::Acquire));
        matches!(state, 1 | 2) && self.is_sidecar_alive()
    }

    /// Ask for NVMe chunks in DRAM; how many leading keys fitted. `groups`: one for all or one per key.
    pub fn promote(&mut self, keys: &[u8], groups: &[u8], deadline_ms: u64) -> Result<usize> {
        self.need_scheduler("promote")?;
        let keys = split_keys(keys)?;
        if groups.len() != 1 && groups.len() != keys.len() {
            return Err(CoreError::invalid(format!("groups has {} bytes for {} keys, want 1 or as many", groups.len(), keys.len())));
        }
        let group_of = |at: usize| u32::from(if groups.len() == 1 { groups[0] } else { groups[at] });
        Ok(self.push(keys.len(), |at| Op { key: keys[at], group: group_of(at), aux: deadline_ms, ..Op::of(op::PROMOTE) }))
    }

    /// Pin the slots of keys that are HIT now. None: outside a step or in one that took seconds, a key is no HIT, or all tickets are open.
    pub fn take_ticket(&mut self, keys: &[u8]) -> Result<Option<(u64, Vec<u32>)>> {
        self.need_scheduler("take_ticket")?;
        let keys = split_keys(keys)?;
        if keys.len() > MAX_TICKET_SLOTS {
            return Err(CoreError::invalid(format!("{} keys in one ticket, at most {MAX_TICKET_SLOTS}; take several", keys.len())));
        }
        if !self.can_look_up() {
            return Ok(None);
        }
        let (Some(index), Some(map)) = (&self.index, &mut self.keys) else { return Ok(None) };
        let slot_of = |key: &Key36| index.lookup(map.key16(key)).map(|found| found.dram_slot).filter(|slot| *slot != NO_DRAM);
        let Some(slots) = keys.iter().map(slot_of).collect::<Option<Vec<u32>>>() else { return Ok(None) };
        let ticket = self.write_ticket(&slots).map(|id| (id, slots));
        // Stopped since the lookups, perhaps for hours: then the ticket may have come too late to pin anything.
        match ticket {
            Some((id, _)) if self.is_expelled() => {
                self.cancel_ticket(id);
                Ok(None)
            }
            other => Ok(other),
        }
    }

    fn write_ticket(&mut self, slots: &[u32]) -> Option<u64> {
        let place = self.free_place()?;
        self.tickets_taken += 1;
        let id = self.tickets_taken << 8 | place as u64;
        let record = self.ctl().ticket(place);
        for (word, slot) in record.slots.iter().zip(slots) {
            word.store(*slot, Ordering::Relaxed);
        }
        record.n_slots.store(slots.len() as u32, Ordering::Relaxed);
        record.id.store(id, Ordering::Release);
        Some(id)
    }

    /// A place for a ticket. Without a free one the acknowledged ones are ended here, not by the sidecar, which may be gone.
    fn free_place(&self) -> Option<usize> {
        let first = self.tickets_taken as usize;
        let mut places = (0..MAX_TICKETS).map(|step| (first + step) % MAX_TICKETS);
        let is_free = |place: &usize| self.ticket_id(*place) == 0;
        places.clone().find(is_free).or_else(|| places.find(|place| self.end_acknowledged(*place)))
    }

    fn ticket_id(&self, place: usize) -> u64 {
        self.ctl().ticket(place).id.load(Ordering::Acquire)
    }

    fn is_acknowledged(&self, place: usize, id: u64) -> bool {
        ticket::is_acknowledged(id, (0..self.n_ranks).map(|rank| self.ctl().ack(rank, place)))
    }

    /// True when the place is free after this.
    fn end_acknowledged(&self, place: usize) -> bool {
        let id = self.ticket_id(place);
        id == 0 || self.is_acknowledged(place, id) && (ticket::end(&self.ctl().ticket(place).id, id) || self.ticket_id(place) == 0)
    }

    /// Release a ticket that no rank has been told of.
    pub fn cancel_ticket(&mut self, ticket: u64) {
        ticket::end(&self.ctl().ticket((ticket & 0xff) as usize).id, ticket);
        self.ring_doorbell();
    }

    /// Tickets that not all ranks have acknowledged yet.
    pub fn open_tickets(&self) -> usize {
        let is_open = |place: &usize| match self.ticket_id(*place) {
            0 => false,
            id => !self.is_acknowledged(*place, id),
        };
        (0..MAX_TICKETS).filter(is_open).count()
    }

    /// This rank's copy of the ticket's slots is done.
    pub fn ack(&mut self, ticket: u64) -> Result<()> {
        if self.is_scheduler() {
            return Err(CoreError::invalid("ack: the scheduler called it, only ranks copy"));
        }
        self.ctl().ack(self.rank as usize, (ticket & 0xff) as usize).store(ticket, Ordering::Release);
        self.ring_doorbell();
        Ok(())
    }

    /// Slots that [`Self::lease`] can get without asking, unless the sidecar takes them back before.
    pub fn granted(&self, group: usize) -> Result<u64> {
        self.need_group(group)?;
        let ring = self.ctl().grant_ring(group);
        let tail = grants::Tail::of(ring.tail.load(Ordering::Acquire));
        Ok(tail.waiting(ring.head.load(Ordering::Acquire), GRANT_SLOTS as u64))
    }

    /// Take at most `count` granted slots; what is missing is made known to the sidecar.
    pub fn lease(&mut self, group: usize, count: usize) -> Result<Vec<u32>> {
        self.need_scheduler("lease")?;
        self.need_group(group)?;
        let ring = self.ctl().grant_ring(group);
        let slot_at = |place| self.ctl().grant_slot(group, place).load(Ordering::Relaxed);
        let slots = grants::take(&ring.head, &ring.tail, GRANT_SLOTS as u64, count as u64, slot_at);
        let missed = (count - slots.len()) as u32;
        if missed > 0 {
            self.ctl().header().lease_missed[group].fetch_add(missed, Ordering::Release);
        }
        if count > 0 {
            self.ring_doorbell();
        }
        Ok(slots)
    }

    /// Give leased slots back; how many leading ones fitted in the ring.
    pub fn release(&mut self, group: usize, slots: &[u32]) -> Result<usize> {
        self.need_scheduler("release")?;
        self.need_group(group)?;
        Ok(self.push(slots.len(), |at| Op { slot: slots[at], group: group as u32, ..Op::of(op::RELEASE) }))
    }

    /// Offer filled slots under their keys; how many leading ones fitted in the ring.
    pub fn publish(&mut self, keys: &[u8], group: usize, slots: &[u32]) -> Result<usize> {
        self.need_scheduler("publish")?;
        self.need_group(group)?;
        let keys = split_keys(keys)?;
        if keys.len() != slots.len() {
            return Err(CoreError::invalid(format!("publish: {} keys and {} slots", keys.len(), slots.len())));
        }
        let length = self.payload_bytes(group) as u32;
        Ok(self.push(keys.len(), |at| Op { key: keys[at], slot: slots[at], group: group as u32, length, ..Op::of(op::PUBLISH) }))
    }

    /// Say that chunks were used, a request's suffix first. Dropped when the ring is half full: recency is a hint, publications are not.
    pub fn use_keys(&mut self, keys: &[u8]) -> Result<()> {
        self.need_scheduler("use")?;
        let keys = split_keys(keys)?;
        let room = self.ring_room().saturating_sub(RING_OPS as u64 / 2) as usize;
        self.push(keys.len().min(room), |at| Op { key: keys[at], ..Op::of(op::USE) });
        Ok(())
    }

    fn ring_room(&self) -> u64 {
        let ring = self.ctl().ring();
        let used = ring.head.load(Ordering::Relaxed).wrapping_sub(ring.tail.load(Ordering::Acquire));
        (RING_OPS as u64).saturating_sub(used)
    }

    fn push(&mut self, count: usize, op_at: impl Fn(usize) -> Op) -> usize {
        let fits = self.ring_room().min(count as u64) as usize;
        let head = self.ctl().ring().head.load(Ordering::Relaxed);
        for at in 0..fits {
            op_at(at).store(self.ctl().op(head.wrapping_add(at as u64)));
        }
        if fits > 0 {
            self.ctl().ring().head.store(head.wrapping_add(fits as u64), Ordering::Release);
            self.ring_doorbell();
        }
        fits
    }

    /// Changes whenever a key became hit or miss; 0 while not mapped.
    pub fn progress(&self) -> u64 {
        self.index.as_ref().map_or(0, |index| index.header().progress.load(Ordering::Acquire))
    }

    /// The sidecar's heartbeat is younger than a second.
    pub fn is_sidecar_alive(&self) -> bool {
        let Some(index) = &self.index else { return false };
        clock::now_ns().saturating_sub(index.header().heartbeat_ns.load(Ordering::Acquire)) < HEARTBEAT_MAX_NS
    }

    /// R/arena/arena.
    pub fn arena_path(&self) -> PathBuf {
        self.root.join("arena/arena")
    }

    /// Size of the arena; 0 while not mapped.
    pub fn arena_bytes(&self) -> u64 {
        self.index.as_ref().map_or(0, |index| index.shape().arena_bytes)
    }

    /// Arena bytes, from its start, that are backed by memory.
    pub fn faulted_bytes(&self) -> u64 {
        self.index.as_ref().map_or(0, |index| index.header().faulted_bytes.load(Ordering::Acquire))
    }

    /// Add to a counter; other indices are ignored.
    pub fn count(&self, counter: usize, n: u64) {
        if let Some(word) = self.ctl().header().counters.get(counter) {
            word.fetch_add(n, Ordering::Relaxed);
        }
    }

    /// Wake the sidecar. It polls anyway, so a full or missing doorbell only costs latency.
    fn ring_doorbell(&mut self) {
        if self.doorbell.is_none() {
            let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
            self.doorbell = rustix::fs::open(self.root.join("run/doorbell"), flags, Mode::empty()).ok();
        }
        if let Some(doorbell) = &self.doorbell {
            let _ = rustix::io::write(doorbell, &[1]);
        }
    }
}

fn check_shape(n_ranks: u32, n_groups: u32, rank: i32) -> Result<()> {
    let shape_fits = (1..=MAX_RANKS as u32).contains(&n_ranks) && (1..=MAX_GROUPS as u32).contains(&n_groups);
    if shape_fits && (-1..n_ranks as i32).contains(&rank) {
        return Ok(());
    }
    let bounds = format!("want 1-{MAX_RANKS} ranks, 1-{MAX_GROUPS} groups and a rank from -1 below n_ranks");
    Err(CoreError::invalid(format!("{n_ranks} ranks, {n_groups} groups, rank {rank}: {bounds}")))
}

fn split_keys(keys: &[u8]) -> Result<&[Key36]> {
    match keys.as_chunks::<KEY_BYTES>() {
        (keys, []) => Ok(keys),
        (_, rest) => Err(CoreError::invalid(format!("keys end with {} bytes, each key has {KEY_BYTES}", rest.len()))),
    }
}
