//! Incarnations come and go: new control files are accepted, geometry is published, the dead give their leases and tickets back.

use std::sync::atomic::Ordering;

use crate::clock;
use crate::control::{
    self, Ctl, Incarnation, REFUSED_ABI, REFUSED_FAULT, REFUSED_GEOMETRY, REFUSED_STALE, REFUSED_TABLE_FULL, STATE_NEW, STATE_REFUSED,
    store_id,
};
use crate::key::KeyMap;
use crate::layout::*;

use super::engine::{Engine, Group, Refusal, mark_refused};
use super::strangers::has_been_free;
use super::{Event, Plane};

/// [`IncarnationRecord::state`]: free.
pub(super) const RECORD_FREE: u32 = 0;
/// [`IncarnationRecord::state`]: attached.
pub(super) const RECORD_ATTACHED: u32 = 1;
/// [`IncarnationRecord::state`]: attached once, refused since.
pub(super) const RECORD_REFUSED: u32 = 2;

/// Engines can make any number of files: so many names are read per look (a tmpfs shows the newest first).
const MAX_LISTED: usize = 4096;

impl Plane {
    /// Look for control files that are not known yet.
    pub(super) fn meet_newcomers(&mut self) {
        // The folder was there at open; an error now is a passing one and the next look comes in 200 ms.
        let Ok(folder) = std::fs::read_dir(&self.run) else { return };
        let names = folder.take(MAX_LISTED).filter_map(|found| found.ok()?.file_name().into_string().ok());
        let ids: Vec<Incarnation> = names.filter_map(|name| control::incarnation_of(&name)).filter(|id| !self.knows(id)).collect();
        for id in self.strangers.choose(ids) {
            self.meet(id);
        }
    }

    fn knows(&self, id: &Incarnation) -> bool {
        self.strangers.contains(id) || self.engines.iter().flatten().any(|engine| engine.id == *id)
    }

    fn meet(&mut self, id: Incarnation) {
        let Ok(ctl) = Ctl::open(&control::path_of(&self.run, &id)) else { return };
        match self.judge_newcomer(&ctl, &id) {
            Ok((tag, shape)) => self.accept(tag, id, ctl, shape),
            Err(Refusal(reason)) => {
                // A file that a predecessor refused keeps the reason it was given.
                if ctl.header().state.load(Ordering::Relaxed) != STATE_REFUSED {
                    mark_refused(&ctl, reason);
                    self.emit(Event::EngineRefused { tag: None, reason });
                }
                self.strangers.keep(id, ctl);
            }
        }
    }

    fn judge_newcomer(&self, ctl: &Ctl, id: &Incarnation) -> Result<(u8, (usize, usize)), Refusal> {
        if !Engine::speaks_our_abi(ctl, id) {
            return Err(Refusal(REFUSED_ABI));
        }
        // Only a file nobody judged yet: one with a state was dropped, or belongs to an index that is gone.
        if ctl.header().state.load(Ordering::Relaxed) != STATE_NEW {
            return Err(Refusal(REFUSED_STALE));
        }
        let shape = Engine::shape_of(ctl).ok_or(Refusal(REFUSED_GEOMETRY))?;
        let tag = self.engines.iter().position(Option::is_none).ok_or(Refusal(REFUSED_TABLE_FULL))?;
        // Last, as it covers everything read above.
        if ctl.is_poisoned() { Err(Refusal(REFUSED_FAULT)) } else { Ok((tag as u8, shape)) }
    }

    /// The record first: a successor must know every incarnation that may ever have looked anything up.
    fn accept(&mut self, tag: u8, id: Incarnation, ctl: Ctl, shape: (usize, usize)) {
        let record = &self.index.incarnations()[tag as usize];
        store_id(&record.id, &id);
        record.shape.store((shape.0 as u32) << 16 | shape.1 as u32, Ordering::Relaxed);
        for word in &record.fingerprint {
            word.store(0, Ordering::Relaxed);
        }
        record.state.store(RECORD_ATTACHED, Ordering::Release);
        crate::crash::point("recorded");
        let engine = Engine::new(tag, id, ctl, shape);
        engine.accept();
        self.engines[tag as usize] = Some(engine);
        self.emit(Event::EngineAttached { tag, ranks: shape.0 as u32, groups: shape.1 as u32 });
    }

    /// Publish the geometry of every engine whose ranks have all declared.
    pub(super) fn settle_geometry(&mut self) {
        for tag in 0..self.engines.len() {
            self.contained(tag, (), |plane| plane.settle_geometry_of(tag));
        }
    }

    fn settle_geometry_of(&mut self, tag: usize) {
        let Some(engine) = &self.engines[tag] else { return };
        if engine.ready || engine.refused || engine.is_poisoned() {
            return;
        }
        let Some(slices) = engine.declared() else { return };
        match self.groups_of(&slices) {
            Ok(groups) => self.make_ready(tag, &slices, groups),
            Err(Refusal(reason)) => self.refuse(tag, reason),
        }
    }

    fn groups_of(&mut self, slices: &[Vec<u64>]) -> Result<Vec<Option<Group>>, Refusal> {
        let mut groups = Vec::with_capacity(slices.len());
        for sizes in slices {
            let payload = sizes.iter().try_fold(0u64, |sum, bytes| sum.checked_add(*bytes)).ok_or(Refusal(REFUSED_GEOMETRY))?;
            groups.push(match payload {
                0 => None,
                _ => {
                    let stride = stride_of(payload).ok_or(Refusal(REFUSED_GEOMETRY))?;
                    let class = self.intern_class(stride).ok_or(Refusal(REFUSED_TABLE_FULL))?;
                    Some(Group { class, stride, payload })
                }
            });
        }
        if groups.iter().all(Option::is_none) {
            return Err(Refusal(REFUSED_GEOMETRY));
        }
        Ok(groups)
    }

    fn make_ready(&mut self, tag: usize, slices: &[Vec<u64>], groups: Vec<Option<Group>>) {
        let Some(engine) = self.engines[tag].as_mut() else { return };
        engine.publish_geometry(slices, groups);
        let (ranks, groups) = (engine.n_ranks as u32, engine.n_groups as u32);
        self.emit(Event::EngineReady { tag: tag as u8, ranks, groups });
    }

    pub(super) fn refuse(&mut self, tag: usize, reason: u32) {
        let Some(engine) = self.engines[tag].as_mut() else { return };
        engine.refuse(reason);
        let groups = engine.n_groups;
        // It stores nothing any more, so what it has not taken is the others'. What it took waits for its death.
        for group in 0..groups {
            self.recall_leases(tag as u8, group, GRANT_SLOTS as u64);
        }
        self.index.incarnations()[tag].state.store(RECORD_REFUSED, Ordering::Release);
        self.emit(Event::EngineRefused { tag: Some(tag as u8), reason });
    }

    /// Report what engines took and missed; counted ticket releases.
    pub(super) fn serve_tickets_and_leases(&mut self) {
        for tag in 0..self.engines.len() {
            self.contained(tag, (), |plane| plane.serve_tickets_and_leases_of(tag));
        }
    }

    fn serve_tickets_and_leases_of(&mut self, tag: usize) {
        let Some(engine) = self.engines[tag].as_mut() else { return };
        if engine.is_poisoned() || engine.faulted {
            return;
        }
        let released = engine.release_tickets();
        let wanted = if engine.ready && !engine.refused { engine.wanted() } else { Vec::new() };
        for slot in released {
            let bytes = self.resident.get(&slot).map_or(0, |found| found.length);
            self.counters.hop(super::Hop::ArenaToEngine, bytes.into(), 0);
        }
        for (group, count) in wanted {
            self.emit(Event::LeaseWanted { tag: tag as u8, group: group as u8, count });
        }
    }

    /// Every 200 ms: who lives, who is dead for long enough.
    pub(super) fn watch_liveness(&mut self) {
        let now = clock::now_ns();
        let grace = self.options.dead_grace.as_nanos() as u64;
        for tag in 0..self.engines.len() {
            let Some(engine) = self.engines[tag].as_mut() else { continue };
            if engine.is_poisoned() && !engine.refused {
                self.refuse(tag, REFUSED_FAULT);
                continue;
            }
            if has_been_free(&mut engine.free_since, &engine.ctl, now, grace) {
                self.bury(tag);
            }
        }
        self.strangers.bury(now, grace);
    }

    /// The state first: a process that takes a lock byte from now on finds itself refused, and until it is quiescent and gone again it counts.
    fn bury(&mut self, tag: usize) {
        // What was published before death is the cache's; the ring is emptied before the leases go. What is left waits for the next look.
        if self.serve_ring(tag, RING_OPS) {
            return;
        }
        let Some(engine) = self.engines[tag].as_mut() else { return };
        mark_refused(&engine.ctl, engine.ctl.header().refused_reason.load(Ordering::Relaxed));
        engine.refused = true;
        if engine.ctl.is_held() {
            engine.free_since = None;
            return;
        }
        let Some(engine) = self.engines[tag].take() else { return };
        let (leases, tickets) = (engine.leases.len() as u64, engine.tickets.len() as u64);
        for slot in engine.leases.slots() {
            self.free_slot(slot);
        }
        crate::crash::point("leases-back");
        self.tier.expected.forget_engine(tag as u8);
        self.index.incarnations()[tag].state.store(RECORD_FREE, Ordering::Release);
        let _ = std::fs::remove_file(engine.ctl.path());
        self.emit(Event::EngineDead { tag: tag as u8, leases, tickets });
    }

    /// Take over the incarnations of a predecessor; how many. Their leases are found in the slot table afterwards.
    pub(super) fn recall_engines(&mut self) -> usize {
        for tag in 0..MAX_INCARNATIONS {
            let record = &self.index.incarnations()[tag];
            let state = record.state.load(Ordering::Acquire);
            if state == RECORD_FREE {
                continue;
            }
            match self.recall(tag, state) {
                Some(engine) => self.engines[tag] = Some(engine),
                None => self.index.incarnations()[tag].state.store(RECORD_FREE, Ordering::Release),
            }
        }
        self.engines.iter().flatten().count()
    }

    fn recall(&self, tag: usize, state: u32) -> Option<Engine> {
        let record = &self.index.incarnations()[tag];
        let id = control::load_id(&record.id);
        let ctl = Ctl::open(&control::path_of(&self.run, &id)).ok()?;
        let shape = record.shape.load(Ordering::Relaxed);
        let shape = ((shape >> 16) as usize, (shape & 0xffff) as usize);
        if !(1..=MAX_RANKS).contains(&shape.0) || !(1..=MAX_GROUPS).contains(&shape.1) {
            return None;
        }
        let mut engine = Engine::new(tag as u8, id, ctl, shape);
        engine.keys = stored_fingerprint(record);
        // A predecessor that died between the record and the answer; saying it twice is harmless.
        match (state, Engine::speaks_our_abi(&engine.ctl, &id)) {
            (RECORD_REFUSED, _) => engine.refused = true,
            (_, true) => engine.accept(),
            (_, false) => engine.refuse(REFUSED_ABI),
        }
        if let Err(Refusal(reason)) = engine.recall_geometry(|class| self.stride_of_class(class)) {
            engine.refuse(reason);
        }
        Some(engine)
    }
}

fn stored_fingerprint(record: &IncarnationRecord) -> Option<KeyMap> {
    let mut fingerprint = [0; 32];
    for (word, chunk) in record.fingerprint.iter().zip(fingerprint.chunks_exact_mut(8)) {
        chunk.copy_from_slice(&word.load(Ordering::Relaxed).to_le_bytes());
    }
    (fingerprint != [0; 32]).then(|| KeyMap::new(fingerprint))
}
