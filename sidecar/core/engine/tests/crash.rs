//! A daemon killed at each crash point, in front of a living engine: its successor must serve nothing wrong, lose no slot and go on.
//!
//! The daemon is this test binary run again (`the_daemon`, which does nothing unless told to); the engine lives in the test's own process.
#![allow(clippy::unwrap_used)]

use std::collections::HashSet;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use spillway_engine::attach::{Attachment, HIT, MISS, NVME};
use spillway_engine::key::{Key16, Key36, derive};
use spillway_engine::nvme::{Direct, NvmeConfig, RungKind};
use spillway_engine::plane::{Event, OpenOptions, Plane};

const PAYLOAD: usize = 200_000;
const FINGERPRINT: [u8; 32] = [7; 32];
const CHUNKS: u8 = 6;

/// What the daemon does besides granting.
#[derive(Clone, Copy, PartialEq)]
enum Role {
    Store,
    /// Evicts the even chunks once all are stored.
    Evict,
    /// Takes back what the engine has not taken once all are stored.
    Recall,
    /// Writes all to NVMe, evicts them from DRAM, reads what is wanted.
    Promote,
}

fn options(root: &Path, role: Role) -> OpenOptions {
    let config = NvmeConfig {
        capacity_bytes: 256 << 20,
        slots: 1,
        io_threads: 2,
        direct: Direct::Auto,
        best_rung: RungKind::RegisteredUring,
        deadline: Duration::from_secs(10),
        reserve_percent: 0,
    };
    OpenOptions {
        root: root.to_owned(),
        arena_bytes: 64 << 20,
        index_bytes: 1 << 20,
        nvme: (role == Role::Promote).then(|| (root.join("nvme"), config)),
        lock_wait: Duration::from_secs(5),
        foreign_read_quarantine: Duration::from_secs(60),
        dead_grace: Duration::from_millis(200),
    }
}

fn key(number: u8) -> Key36 {
    let mut key = [number; 36];
    key[32..].fill(0);
    key
}

fn keys() -> Vec<u8> {
    (1..=CHUNKS).flat_map(key).collect()
}

fn key16(number: u8) -> Key16 {
    derive(&key(number), &FINGERPRINT)
}

/// A daemon's policy for one role.
struct Daemon {
    plane: Plane,
    role: Role,
    stored: HashSet<Key16>,
    written: usize,
}

impl Daemon {
    fn open(root: &Path, role: Role) -> Self {
        Self { plane: Plane::open(options(root, role)).unwrap(), role, stored: HashSet::new(), written: 0 }
    }

    fn turn(&mut self) {
        for event in self.plane.poll(Duration::from_millis(10), 1024) {
            match event {
                Event::EngineReady { tag, .. } => _ = self.plane.grant(tag, 0, 8),
                Event::LeaseWanted { tag, group, count } => _ = self.plane.grant(tag, group.into(), count),
                Event::Inserted { key, .. } => _ = self.stored.insert(key),
                Event::Written { .. } => self.written += 1,
                Event::Promote { key, .. } => _ = self.plane.read(&[key]),
                _ => {}
            }
        }
        if self.stored.len() == usize::from(CHUNKS) {
            self.act_on_all();
        }
    }

    fn act_on_all(&mut self) {
        let keys: Vec<Key16> = (1..=CHUNKS).map(key16).collect();
        match self.role {
            Role::Store => return,
            Role::Recall => _ = self.plane.recall_leases(0, 0, 3),
            Role::Evict => _ = self.plane.evict_dram(&[keys[1], keys[3], keys[5]], false),
            Role::Promote if self.written < keys.len() => {
                self.plane.write(&keys);
                return;
            }
            Role::Promote => _ = self.plane.evict_dram(&keys, false),
        }
        self.stored.clear();
    }
}

/// Not a test of its own: the daemon that the others kill.
#[test]
fn the_daemon() {
    let Ok(root) = std::env::var("SPILLWAY_DAEMON_ROOT") else { return };
    let role = match std::env::var("SPILLWAY_DAEMON_ROLE").as_deref() {
        Ok("evict") => Role::Evict,
        Ok("recall") => Role::Recall,
        Ok("promote") => Role::Promote,
        _ => Role::Store,
    };
    let mut daemon = Daemon::open(Path::new(&root), role);
    let end = Instant::now() + Duration::from_secs(20);
    while Instant::now() < end {
        daemon.turn();
    }
}

fn start_daemon(root: &Path, crash_at: &str, role: Role) -> Child {
    let name = match role {
        Role::Store => "store",
        Role::Evict => "evict",
        Role::Recall => "recall",
        Role::Promote => "promote",
    };
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "the_daemon", "--nocapture"]);
    command.env("SPILLWAY_DAEMON_ROOT", root).env("SPILLWAY_DAEMON_ROLE", name).env("SPILLWAY_CRASH_AT", crash_at);
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

struct Engine {
    scheduler: Attachment,
    rank: Attachment,
}

fn attach(root: &Path) -> Engine {
    std::fs::create_dir_all(root.join("run")).unwrap();
    let id = [3; 16];
    let scheduler = Attachment::new(root, &id, 1, 1, -1).unwrap();
    let mut rank = Attachment::new(root, &id, 1, 1, 0).unwrap();
    rank.declare_slices(&[PAYLOAD as u64]).unwrap();
    Engine { scheduler, rank }
}

fn arena(root: &Path) -> std::fs::File {
    std::fs::OpenOptions::new().read(true).write(true).open(root.join("arena/arena")).unwrap()
}

fn payload(number: u8) -> Vec<u8> {
    (0..PAYLOAD).map(|at| number ^ (at as u8)).collect()
}

/// Attach and store as far as the daemon lets us; true once everything was handed to the ring.
struct Store {
    engine: Engine,
    has_fingerprint: bool,
    published: u8,
}

impl Store {
    fn step(&mut self, root: &Path) -> bool {
        use std::os::unix::fs::FileExt;
        let scheduler = &mut self.engine.scheduler;
        if !scheduler.try_map().unwrap() || scheduler.geometry().is_none() {
            return false;
        }
        self.has_fingerprint = self.has_fingerprint || scheduler.set_fingerprint(FINGERPRINT).unwrap();
        for slot in scheduler.lease(0, usize::from(CHUNKS - self.published)).unwrap() {
            self.published += 1;
            arena(root).write_all_at(&payload(self.published), u64::from(slot) * 4096 + 4096).unwrap();
            assert_eq!(scheduler.publish(&key(self.published), 0, &[slot]).unwrap(), 1);
        }
        self.published == CHUNKS
    }

    fn answers(&mut self) -> Vec<u8> {
        let mut answers = vec![9; usize::from(CHUNKS)];
        self.engine.scheduler.lookup(&keys(), &mut answers).unwrap();
        self.engine.scheduler.end_step();
        answers
    }

    /// Ask for what is on NVMe alone.
    fn promote(&mut self) {
        for (number, answer) in (1..=CHUNKS).zip(self.answers()) {
            if answer == NVME {
                self.engine.scheduler.promote(&key(number), &[0], 1000).unwrap();
            }
        }
    }

    /// Every HIT must be the chunk it says it is.
    fn check_hits(&mut self, root: &Path) {
        use std::os::unix::fs::FileExt;
        for number in 1..=CHUNKS {
            let scheduler = &mut self.engine.scheduler;
            scheduler.begin_step();
            let ticket = scheduler.take_ticket(&key(number)).unwrap();
            scheduler.end_step();
            let Some((id, slots)) = ticket else { continue };
            let mut found = vec![0; PAYLOAD];
            arena(root).read_exact_at(&mut found, u64::from(slots[0]) * 4096 + 4096).unwrap();
            assert!(found == payload(number), "chunk {number} is not itself");
            self.engine.rank.ack(id).unwrap();
        }
    }
}

fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(15);
    while !done() {
        assert!(Instant::now() < end, "waited 15 s for {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Every slot is free, leased, quarantined or holds a chunk, and every lease waits for the engine, which holds none by now: nothing was lost.
fn check_slots(plane: &Plane, engine: &Engine, chunks: u64) {
    let (free, total) = plane.dram_slots(0);
    let (leases, quarantined) = (plane.stats().leases_out, plane.stats().quarantined_slots);
    assert_eq!(leases, engine.scheduler.granted(0).unwrap(), "leases that the engine knows nothing of");
    assert_eq!(free + leases + quarantined + chunks, total, "free {free}, leased {leases}, quarantined {quarantined}, chunks {chunks}");
}

fn kill_and_take_over(crash_at: &str, role: Role) -> Plane {
    let folder = tempfile::tempdir_in(if Path::new("/dev/shm").is_dir() { "/dev/shm" } else { "/tmp" }).unwrap();
    let root = folder.path();
    let mut store = Store { engine: attach(root), has_fingerprint: false, published: 0 };
    let mut killed = start_daemon(root, crash_at, role);
    wait_for(&format!("the daemon's death at {crash_at}"), || {
        store.step(root);
        store.check_hits(root);
        store.promote();
        killed.try_wait().unwrap().is_some()
    });
    assert!(!killed.wait().unwrap().success(), "the daemon reached no {crash_at}");
    store.check_hits(root);

    let mut successor = Daemon::open(root, role);
    if role == Role::Evict || role == Role::Recall {
        successor.role = Role::Store;
    }
    wait_for("the successor to serve all chunks", || {
        successor.turn();
        let all_handed_over = store.step(root);
        store.check_hits(root);
        store.promote();
        let settled = successor.plane.stats().recycling_slots + successor.plane.stats().reads_in_flight == 0;
        all_handed_over && settled && (role == Role::Evict || store.answers().iter().all(|answer| *answer == HIT))
    });
    let answers = store.answers();
    let hits = answers.iter().filter(|answer| **answer == HIT).count();
    assert!(hits >= usize::from(CHUNKS) / 2 && answers.iter().all(|answer| [HIT, MISS].contains(answer)), "{answers:?}");
    check_slots(&successor.plane, &store.engine, hits as u64);
    assert_eq!(successor.plane.stats().dram.chunks, hits as u64);
    successor.plane
}

#[test]
fn killed_while_accepting_an_engine() {
    kill_and_take_over("recorded:1", Role::Store);
}

#[test]
fn killed_while_granting() {
    for point in ["extent-assigned:1", "granting:1", "granting:3", "grant-written:1", "grant-written:8", "granted:1", "granted:8"] {
        kill_and_take_over(point, Role::Store);
    }
}

#[test]
fn killed_while_taking_leases_back() {
    for point in ["recalling:1", "recalled:1"] {
        kill_and_take_over(point, Role::Recall);
    }
}

#[test]
fn killed_while_publishing() {
    for point in ["before-tail:1", "before-tail:3", "sealed:1", "sealed:4", "inserted:1", "inserted:6"] {
        kill_and_take_over(point, Role::Store);
    }
}

#[test]
fn killed_while_evicting() {
    for point in ["unlinked:1", "unlinked:3"] {
        kill_and_take_over(point, Role::Evict);
    }
}

#[test]
fn a_torn_entry_costs_its_chunk_and_nothing_else() {
    for point in ["entry-odd:2", "entry-torn:2", "entry-odd:7", "entry-torn:8"] {
        let role = if point.ends_with('2') { Role::Store } else { Role::Evict };
        kill_and_take_over(point, role);
    }
}

#[test]
fn a_read_under_way_quarantines_its_slot() {
    let successor = kill_and_take_over("reading:1", Role::Promote);
    assert_eq!(successor.stats().quarantined_slots, 1);
}

#[test]
fn killed_after_a_promotion_was_named() {
    for point in ["promoted:1", "promoted:4"] {
        kill_and_take_over(point, Role::Promote);
    }
}
