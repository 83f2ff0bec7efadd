//! The protocols under every interleaving and reordering that the memory model allows: `RUSTFLAGS="--cfg loom" cargo test --release --test loom`.
#![cfg(loom)]

use loom::sync::Arc;
use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use loom::thread;
use spillway_engine::epoch;
use spillway_engine::grants::{self, Tail};
use spillway_engine::seqlock::{Entry, EntryValue, LIVE};
use spillway_engine::ticket;

fn entry() -> Entry {
    Entry {
        seq: AtomicU32::new(0),
        meta: AtomicU32::new(0),
        key: [AtomicU64::new(0), AtomicU64::new(0)],
        dram_slot: AtomicU32::new(0),
        length: AtomicU32::new(0),
        nvme_slot: AtomicU64::new(0),
        generation: AtomicU32::new(0),
        namespace: AtomicU32::new(0),
        last_use: AtomicU32::new(0),
        spare: std::array::from_fn(|_| AtomicU32::new(0)),
    }
}

/// A value whose fields all tell the same number.
fn value(number: u32) -> EntryValue {
    EntryValue { state: LIVE, key: [number.into(), number.into()], dram_slot: number, length: number, ..EntryValue::default() }
}

#[test]
fn a_reader_sees_one_value_or_none() {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(|| {
        let shared = Arc::new(entry());
        shared.write(&value(1));
        let writer = thread::spawn({
            let shared = shared.clone();
            move || shared.write(&value(2))
        });
        if let Some(seen) = shared.read() {
            assert!(seen.key == [seen.dram_slot.into(), seen.dram_slot.into()] && seen.length == seen.dram_slot, "torn: {seen:?}");
        }
        writer.join().unwrap();
    });
}

/// One slot, named by `linked` (1: yes). The engine pins it if a lookup finds it; the sidecar unlinks and frees it unless it is pinned.
struct Pod {
    global: AtomicU64,
    active: AtomicU64,
    linked: AtomicU32,
    ticket: AtomicU64,
    expelled: AtomicU64,
    /// 1 once freed: the slot's bytes may change from then on.
    freed: AtomicU32,
}

fn pod() -> Arc<Pod> {
    Arc::new(Pod {
        global: AtomicU64::new(1),
        active: AtomicU64::new(0),
        linked: AtomicU32::new(1),
        ticket: AtomicU64::new(0),
        expelled: AtomicU64::new(0),
        freed: AtomicU32::new(0),
    })
}

/// What the sidecar does once; gives up instead of waiting, as a later poll would try again.
fn evict(pod: &Pod) {
    pod.linked.store(0, Ordering::Relaxed);
    let epoch = epoch::advance(&pod.global);
    if epoch::passed(&pod.active, epoch) && pod.ticket.load(Ordering::Acquire) == 0 {
        pod.freed.store(1, Ordering::Release);
    }
}

/// One step of the engine; true when it pinned the slot.
fn step(pod: &Pod) -> bool {
    epoch::begin(&pod.global, &pod.active);
    let hit = pod.linked.load(Ordering::Relaxed) == 1;
    if hit {
        pod.ticket.store(7, Ordering::Release);
    }
    epoch::end(&pod.active);
    hit
}

#[test]
fn a_slot_is_not_freed_under_a_ticket() {
    loom::model(|| {
        let shared = pod();
        let sidecar = thread::spawn({
            let shared = shared.clone();
            move || evict(&shared)
        });
        let pinned = step(&shared);
        sidecar.join().unwrap();
        assert!(!(pinned && shared.freed.load(Ordering::Acquire) == 1), "freed under a ticket");
    });
}

#[test]
fn a_ticket_of_an_earlier_step_is_seen_during_a_later_one() {
    loom::model(|| {
        let shared = pod();
        let sidecar = thread::spawn({
            let shared = shared.clone();
            move || evict(&shared)
        });
        let pinned = step(&shared);
        // The next step announces a newer epoch; whoever reads that must see the ticket.
        epoch::begin(&shared.global, &shared.active);
        sidecar.join().unwrap();
        assert!(!(pinned && shared.freed.load(Ordering::Acquire) == 1), "freed under a ticket");
    });
}

/// As [`evict`], but an engine that is still in a step is put out of it instead of waited for.
fn evict_and_expel(pod: &Pod) {
    pod.linked.store(0, Ordering::Relaxed);
    let epoch = epoch::advance(&pod.global);
    if !epoch::passed(&pod.active, epoch) {
        epoch::expel(&pod.expelled, epoch);
    }
    if pod.ticket.load(Ordering::Acquire) == 0 {
        pod.freed.store(1, Ordering::Release);
    }
}

#[test]
fn a_slot_is_not_freed_under_the_ticket_of_an_expelled_engine() {
    loom::model(|| {
        let shared = pod();
        let sidecar = thread::spawn({
            let shared = shared.clone();
            move || evict_and_expel(&shared)
        });
        epoch::begin(&shared.global, &shared.active);
        let mut pinned = shared.linked.load(Ordering::Relaxed) == 1;
        if pinned {
            shared.ticket.store(7, Ordering::Release);
            if epoch::is_expelled(&shared.active, &shared.expelled) {
                shared.ticket.store(0, Ordering::Release);
                pinned = false;
            }
        }
        epoch::end(&shared.active);
        sidecar.join().unwrap();
        assert!(!(pinned && shared.freed.load(Ordering::Acquire) == 1), "freed under a ticket");
    });
}

#[test]
fn an_idle_engine_holds_nothing_up() {
    loom::model(|| {
        let shared = pod();
        evict(&shared);
        assert_eq!(shared.freed.load(Ordering::Acquire), 1);
    });
}

/// A grant ring of two places.
struct Ring {
    head: AtomicU64,
    tail: AtomicU64,
    slots: [AtomicU32; 2],
}

#[test]
fn a_granted_slot_is_taken_or_taken_back_and_never_both() {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(4);
    model.check(|| {
        let shared = Arc::new(Ring { head: AtomicU64::new(2), tail: AtomicU64::new(0), slots: [AtomicU32::new(10), AtomicU32::new(11)] });
        let slot_at = |ring: &Ring, place: u64| ring.slots[place as usize % 2].load(Ordering::Relaxed);
        let engine = thread::spawn({
            let shared = shared.clone();
            move || {
                let mut taken = grants::take(&shared.head, &shared.tail, 2, 1, |place| slot_at(&shared, place));
                taken.extend(grants::take(&shared.head, &shared.tail, 2, 2, |place| slot_at(&shared, place)));
                taken
            }
        });
        // The sidecar takes one back and grants another in its place, which a slow engine may just be copying.
        let seen = Tail::of(shared.tail.load(Ordering::Acquire));
        let mut recalled = None;
        if seen.waiting(2, 2) > 0 {
            let slot = slot_at(&shared, seen.taken);
            if grants::recall(&shared.tail, seen, 1) {
                recalled = Some(slot);
                shared.slots[0].store(12, Ordering::Relaxed);
                shared.head.store(3, Ordering::Release);
            }
        }
        let mut all = engine.join().unwrap();
        let left = Tail::of(shared.tail.load(Ordering::Acquire));
        let head = shared.head.load(Ordering::Relaxed);
        all.extend((left.taken..head).map(|place| slot_at(&shared, place)));
        all.extend(recalled);
        all.sort_unstable();
        assert_eq!(all, if recalled.is_some() { vec![10, 11, 12] } else { vec![10, 11] });
        assert_eq!(left.recalls, u16::from(recalled.is_some()));
    });
}

const OLD_TICKET: u64 = 1 << 8;
const NEXT_TICKET: u64 = 2 << 8;

/// One place of the ticket table: its id, its one slot, the one rank's word.
struct Place {
    id: AtomicU64,
    slot: AtomicU32,
    ack: AtomicU64,
    /// What the rank copies under the old ticket; nobody may have changed it before.
    bytes: AtomicU32,
}

/// End the ticket if it is acknowledged; the slot it pinned.
fn release(place: &Place) -> Option<u32> {
    let id = place.id.load(Ordering::Acquire);
    if id == 0 || !ticket::is_acknowledged(id, std::iter::once(&place.ack)) {
        return None;
    }
    let slot = place.slot.load(Ordering::Relaxed);
    ticket::end(&place.id, id).then_some(slot)
}

/// Sidecar, engine and a rank at one place: the ticket ends once, the next one in its place stays, and nobody takes the slot before the copy is over.
#[test]
fn an_acknowledged_ticket_is_ended_once_by_either_side_and_its_successor_stays() {
    loom::model(|| {
        let shared =
            Arc::new(Place { id: AtomicU64::new(OLD_TICKET), slot: AtomicU32::new(7), ack: AtomicU64::new(0), bytes: AtomicU32::new(0) });
        let rank = thread::spawn({
            let shared = shared.clone();
            move || {
                let copied = shared.bytes.load(Ordering::Relaxed);
                shared.ack.store(OLD_TICKET, Ordering::Release);
                assert_eq!(copied, 0, "the slot was given away under a copy");
            }
        });
        let sidecar = thread::spawn({
            let shared = shared.clone();
            move || release(&shared)
        });
        let ended_here = release(&shared);
        if ended_here.is_some() {
            shared.bytes.store(1, Ordering::Relaxed);
            shared.slot.store(8, Ordering::Relaxed);
            shared.id.store(NEXT_TICKET, Ordering::Release);
        }
        let ended_there = sidecar.join().unwrap();
        rank.join().unwrap();
        assert!(ended_here.is_none() || ended_there.is_none(), "ended twice");
        assert!(ended_there.is_none_or(|slot| slot == 7), "the sidecar counts slots of another ticket");
        if ended_here.is_some() {
            assert_eq!(shared.id.load(Ordering::Acquire), NEXT_TICKET, "the next ticket was ended unacknowledged");
        }
    });
}

/// The sidecar reads the tickets while the engine ends one and takes its place again in the same step.
#[test]
fn a_slot_is_not_freed_under_a_ticket_in_a_place_that_the_engine_freed() {
    loom::model(|| {
        let shared = pod();
        shared.ticket.store(OLD_TICKET, Ordering::Release);
        let sidecar = thread::spawn({
            let shared = shared.clone();
            move || {
                shared.linked.store(0, Ordering::Relaxed);
                let epoch = epoch::advance(&shared.global);
                // The old ticket holds another slot, so only the new one stands in the way.
                if epoch::passed(&shared.active, epoch) && shared.ticket.load(Ordering::Acquire) != NEXT_TICKET {
                    shared.freed.store(1, Ordering::Release);
                }
            }
        });
        epoch::begin(&shared.global, &shared.active);
        let pinned = shared.linked.load(Ordering::Relaxed) == 1 && ticket::end(&shared.ticket, OLD_TICKET);
        if pinned {
            shared.ticket.store(NEXT_TICKET, Ordering::Release);
        }
        epoch::end(&shared.active);
        sidecar.join().unwrap();
        assert!(!(pinned && shared.freed.load(Ordering::Acquire) == 1), "freed under a ticket");
    });
}
