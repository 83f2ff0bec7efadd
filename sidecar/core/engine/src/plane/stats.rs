//! Counters since open and gauges of now, as plain figures.

use crate::clock;
use crate::key::Fingerprint;
use crate::layout::COUNTERS;

use super::{OUTCOMES, Outcome, Plane};

/// Where payload bytes cross.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Hop {
    /// Stored and published.
    EngineToArena = 0,
    /// Loaded under a ticket.
    ArenaToEngine = 1,
    /// Written.
    ArenaToNvme = 2,
    /// Read and verified.
    NvmeToArena = 3,
}

/// Names of the hops by number.
pub const HOPS: [&str; 4] = ["engine_to_arena", "arena_to_engine", "arena_to_nvme", "nvme_to_arena"];

/// Why an operation of an engine was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum InvalidOp {
    /// No such operation.
    Unknown = 0,
    /// Before its geometry was known.
    NotReady = 1,
    /// No such group, or one that stores nothing.
    Group = 2,
    /// Another group's slot.
    Slot = 3,
    /// Not leased to this incarnation.
    NotLeased = 4,
    /// Longer than the slot, or of another shape than the chunk it names.
    Length = 5,
    /// Before any fingerprint.
    NoFingerprint = 6,
    /// Head and tail of the ring cannot both be right.
    Ring = 7,
}

/// Names of the refusals by number.
pub const INVALID_OPS: [&str; 8] = ["unknown", "not_ready", "group", "slot", "not_leased", "length", "no_fingerprint", "ring"];

#[derive(Clone, Debug, Default)]
pub(super) struct Counters {
    pub hop_bytes: [u64; 4],
    pub overhead_bytes: [u64; 4],
    pub quarantined: [u64; 8],
    pub invalid_ops: [u64; 8],
    pub index_full: u64,
    pub index_displaced: u64,
    pub steps_expelled: u64,
    pub panics_contained: u64,
    pub duplicates: u64,
    pub io_errors: u64,
}

impl Counters {
    pub fn hop(&mut self, hop: Hop, payload_bytes: u64, overhead_bytes: u64) {
        // An engine's tickets can name one slot as often as they like.
        let add = |sum: &mut u64, bytes| *sum = sum.saturating_add(bytes);
        add(&mut self.hop_bytes[hop as usize], payload_bytes);
        add(&mut self.overhead_bytes[hop as usize], overhead_bytes);
    }

    pub fn invalid(&mut self, why: InvalidOp) {
        self.invalid_ops[why as usize] += 1;
    }

    pub fn quarantine(&mut self, why: Outcome) {
        self.quarantined[why as usize] += 1;
    }
}

/// One tier's figures.
#[derive(Clone, Copy, Debug, Default)]
pub struct TierStats {
    /// Chunks that entries name here.
    pub chunks: u64,
    /// Their payload.
    pub bytes: u64,
    /// What the tier may hold, headers and padding included.
    pub capacity_bytes: u64,
}

/// One incarnation's figures.
#[derive(Clone, Debug)]
pub struct EngineStats {
    /// Its place in the incarnation table.
    pub tag: u8,
    /// Its random id.
    pub incarnation: [u8; 16],
    /// Refused or dropped.
    pub refused: bool,
    /// Its ranks.
    pub ranks: usize,
    /// Its KV groups.
    pub groups: usize,
    /// Its geometry is known.
    pub ready: bool,
    /// Some process of it holds a lock byte.
    pub alive: bool,
    /// Slots leased.
    pub leases: usize,
    /// Tickets not acknowledged by all ranks.
    pub tickets: usize,
    /// Operations waiting.
    pub ring_depth: u64,
    /// The epoch of the step that it is in; 0 outside one. No slot unlinked since can be recycled before it goes on.
    pub step_epoch: u64,
    /// What its keys are under.
    pub fingerprint: Option<Fingerprint>,
    /// (name, value) of its control file's counters.
    pub counters: Vec<(&'static str, u64)>,
}

/// Everything that [`Plane::stats`] says.
#[derive(Clone, Debug)]
pub struct Stats {
    /// (hop, payload bytes).
    pub hop_bytes: Vec<(&'static str, u64)>,
    /// (hop, bytes of headers and padding).
    pub overhead_bytes: Vec<(&'static str, u64)>,
    /// DRAM.
    pub dram: TierStats,
    /// NVMe.
    pub nvme: TierStats,
    /// (outcome, chunks).
    pub quarantined: Vec<(&'static str, u64)>,
    /// (reason, operations).
    pub invalid_ops: Vec<(&'static str, u64)>,
    /// Chunks not kept because their probe window was full.
    pub index_full: u64,
    /// Publications of chunks that were there.
    pub duplicates: u64,
    /// Reads and writes that failed.
    pub io_errors: u64,
    /// DRAM slots leased.
    pub leases_out: u64,
    /// Tickets not acknowledged by all ranks.
    pub open_tickets: u64,
    /// DRAM slots that they hold.
    pub pinned_slots: u64,
    /// DRAM slots evicted and not free yet.
    pub recycling_slots: u64,
    /// DRAM slots held back for a read of a dead daemon.
    pub quarantined_slots: u64,
    /// Reads that the device has.
    pub reads_in_flight: u64,
    /// Writes that the device has.
    pub writes_in_flight: u64,
    /// Arena bytes backed by memory.
    pub faulted_bytes: u64,
    /// Entries in the index.
    pub entries: u64,
    /// Chunks that engines wait for from NVMe.
    pub promotions_waiting: u64,
    /// Asks that joined another for the same chunk.
    pub promotions_joined: u64,
    /// Asks of engines that wait for too much already.
    pub promotions_declined: u64,
    /// Chunks that left both tiers for a newer one in their probe window.
    pub index_displaced: u64,
    /// Panics while one engine was served, which was refused for it.
    pub panics_contained: u64,
    /// Steps that took so long that they were declared void.
    pub steps_expelled: u64,
    /// Engines that are in such a step now.
    pub engines_expelled: u64,
    /// Age of the oldest open ticket.
    pub oldest_ticket_seconds: f64,
    /// The arena was truncated by an engine; DRAM is off.
    pub arena_poisoned: bool,
    /// Why the pre-fault ended early.
    pub fault_error: Option<String>,
    /// Attached incarnations.
    pub engines: Vec<EngineStats>,
}

fn named(names: &[&'static str], values: &[u64]) -> Vec<(&'static str, u64)> {
    names.iter().copied().zip(values.iter().copied()).collect()
}

impl Plane {
    /// Counters since open and gauges of now.
    pub fn stats(&self) -> Stats {
        let counters = &self.counters;
        let oldest = self.engines.iter().flatten().flat_map(|engine| engine.tickets.values()).min();
        let age_ns = oldest.map_or(0, |since| clock::now_ns().saturating_sub(*since));
        Stats {
            hop_bytes: named(&HOPS, &counters.hop_bytes),
            overhead_bytes: named(&HOPS, &counters.overhead_bytes),
            dram: TierStats {
                chunks: self.gauges.dram_chunks,
                bytes: self.gauges.dram_bytes,
                capacity_bytes: self.index.shape().arena_bytes,
            },
            nvme: TierStats { chunks: self.gauges.nvme_chunks, bytes: self.gauges.nvme_bytes, capacity_bytes: self.tier.capacity_bytes() },
            quarantined: named(&OUTCOMES, &counters.quarantined),
            invalid_ops: named(&INVALID_OPS, &counters.invalid_ops),
            index_full: counters.index_full,
            duplicates: counters.duplicates,
            io_errors: counters.io_errors,
            leases_out: self.engines.iter().flatten().map(|engine| engine.leases.len() as u64).sum(),
            open_tickets: self.engines.iter().flatten().map(|engine| engine.tickets.len() as u64).sum(),
            pinned_slots: self.pinned_slots().len() as u64,
            recycling_slots: self.recycling.len() as u64,
            quarantined_slots: self.quarantined.len() as u64,
            reads_in_flight: self.tier.reads_in_flight() as u64,
            writes_in_flight: self.tier.writes_in_flight() as u64,
            faulted_bytes: self.arena.faulted_bytes(),
            entries: self.index.entry_count(),
            promotions_waiting: self.tier.expected.len() as u64,
            promotions_joined: self.tier.expected.joined,
            promotions_declined: self.tier.expected.declined,
            index_displaced: counters.index_displaced,
            panics_contained: counters.panics_contained,
            steps_expelled: counters.steps_expelled,
            engines_expelled: self.engines.iter().flatten().filter(|engine| engine.is_expelled()).count() as u64,
            oldest_ticket_seconds: age_ns as f64 / 1e9,
            arena_poisoned: self.withdrawn,
            fault_error: self.arena.fault_error().map(|error| error.to_string()),
            engines: self.engines.iter().flatten().map(engine_stats).collect(),
        }
    }
}

fn engine_stats(engine: &super::engine::Engine) -> EngineStats {
    let words = engine.ctl.header().counters.iter();
    let values: Vec<u64> = words.map(|word| word.load(std::sync::atomic::Ordering::Relaxed)).collect();
    EngineStats {
        tag: engine.tag,
        incarnation: engine.id,
        refused: engine.refused,
        ranks: engine.n_ranks,
        groups: engine.n_groups,
        ready: engine.ready,
        alive: engine.free_since.is_none(),
        leases: engine.leases.len(),
        tickets: engine.tickets.len(),
        ring_depth: engine.ring_depth(),
        step_epoch: engine.ctl.header().active_epoch.load(std::sync::atomic::Ordering::Relaxed),
        fingerprint: engine.keys.as_ref().map(|keys| *keys.fingerprint()),
        counters: named(COUNTERS, &values),
    }
}
