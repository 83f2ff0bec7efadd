//! Engines that write whatever they can: control files, rings, tickets and slots at random and with the figures that hurt, in front of a sidecar that
//! serves an honest engine all the while.
//!
//! No panic, no signal, no descriptor left behind, and the honest engine gets its slots and every byte of its chunks. A few seconds in a normal run;
//! `SPILLWAY_FUZZ_SECONDS` makes it longer, `SPILLWAY_FUZZ_SEED` another one; `tools/fuzz_plane.sh` runs it under the address sanitizer.
#![allow(clippy::unwrap_used)]

mod plane_kit;

use std::collections::VecDeque;
use std::fs::{File, OpenOptions as FileOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use plane_kit::*;
use spillway_engine::arena::{Slot, SlotState};
use spillway_engine::attach::{Attachment, MISS};
use spillway_engine::control::{Ctl, STATE_NEW};
use spillway_engine::index::Index;
use spillway_engine::key::Key16;
use spillway_engine::layout::*;
use spillway_engine::plane::{Event, OpenOptions, Plane};

const PAYLOAD: usize = 60_000;
const STEPS_PER_ROUND: u64 = 1500;
/// Chunks that the honest engine keeps in DRAM.
const KEPT: usize = 24;
const MAX_HOSTILES: usize = 12;

static PANICS: AtomicUsize = AtomicUsize::new(0);

/// xorshift64*: the same run for the same seed on every machine.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }

    /// The words on which arithmetic breaks, and others.
    fn word(&mut self) -> u64 {
        let edge = self.below(3).wrapping_sub(1);
        match self.below(12) {
            0 => edge,
            1 => u64::from(u32::MAX).wrapping_add(edge),
            2 => (1 << self.below(64)) + edge.min(1),
            3 => u64::MAX.wrapping_sub(PAGE_BYTES * self.below(3)).wrapping_add(edge),
            4 => EXTENT_BYTES.wrapping_sub(PAGE_BYTES * self.below(3)).wrapping_add(edge),
            5 => MIN_STRIDE_BYTES.wrapping_add(edge),
            6 => self.below(8),
            7 => self.below(RING_OPS as u64 * 2),
            // A slot of the smallest stride.
            8 => self.below(4096) * 16,
            9 => self.below(1 << 16) << 32 | self.below(1 << 16),
            _ => self.next(),
        }
    }
}

/// An engine with every right that one has, and no intention to keep to the protocol.
struct Hostile {
    roles: Vec<Attachment>,
    /// Kept open: closing it would end the locks that the roles hold, as all of them live in this process.
    file: File,
    tag: Option<u8>,
    leased: Vec<u32>,
    /// Truncated by itself: its own mapping has no guard.
    is_short: bool,
}

impl Drop for Hostile {
    fn drop(&mut self) {
        self.file.set_len(ctl::FILE_BYTES as u64).unwrap();
    }
}

impl Hostile {
    fn attach(root: &Path, id: [u8; 16], dice: &mut Dice) -> Self {
        let ranks = if dice.one_in(4) { 1 + dice.below(MAX_RANKS as u64) } else { 1 };
        let groups = if dice.one_in(4) { 1 + dice.below(MAX_GROUPS as u64) } else { 1 };
        let mut roles = vec![Attachment::new(root, &id, ranks as u32, groups as u32, -1).unwrap()];
        let is_sane = dice.one_in(2);
        for rank in 0..ranks {
            let mut role = Attachment::new(root, &id, ranks as u32, groups as u32, rank as i32).unwrap();
            let slices: Vec<u64> = (0..groups).map(|_| if is_sane { 1 + dice.below(50_000) / ranks } else { dice.word() }).collect();
            role.declare_slices(&slices).unwrap();
            roles.push(role);
        }
        let file = FileOptions::new().read(true).write(true).open(control_path(root, &id)).unwrap();
        Self { roles, file, tag: None, leased: Vec::new(), is_short: false }
    }

    /// As an engine does that means well; it gets leases by that.
    fn behave(&mut self, plane: &mut Plane, dice: &mut Dice) {
        if self.is_short {
            return;
        }
        let scheduler = &mut self.roles[0];
        self.tag = scheduler.tag().and_then(|tag| u8::try_from(tag).ok()).or(self.tag);
        if !scheduler.try_map().unwrap() {
            return;
        }
        scheduler.set_fingerprint([dice.below(3) as u8 + 7; 32]).unwrap();
        if let Some(tag) = self.tag {
            plane.grant(tag, 0, dice.below(4));
            plane.recall_leases(tag, dice.below(3) as usize, dice.below(3));
        }
        self.leased.extend(scheduler.lease(0, dice.below(4) as usize).unwrap());
        self.leased.truncate(64);
        let number = dice.below(64) as u32 + (1 << 20);
        match dice.below(5) {
            0 => _ = scheduler.promote(&key(dice.below(64) as u32), &[0], dice.word()).unwrap(),
            1 => scheduler.use_keys(&key(dice.below(64) as u32)).unwrap(),
            2 => scheduler.begin_step(),
            3 => _ = scheduler.take_ticket(&key(number)).unwrap(),
            _ => {
                if let Some(slot) = self.leased.pop() {
                    scheduler.publish(&key(number), 0, &[slot]).unwrap();
                }
            }
        }
    }

    fn write(&self, at: u64, bytes: &[u8]) {
        // Writing past a shortened end would lengthen it.
        if at + bytes.len() as u64 <= self.file.metadata().unwrap().len().min(ctl::FILE_BYTES as u64) {
            self.file.write_all_at(bytes, at).unwrap();
        }
    }

    /// One word anywhere, mostly where words mean something.
    fn scribble(&self, dice: &mut Dice) {
        let (start, bytes) = match dice.below(8) {
            0 => (0, size_of::<CtlHeader>()),
            1 => (ctl::RANKS, MAX_RANKS * size_of::<RankRecord>()),
            2 => (ctl::RING, size_of::<RingHeader>()),
            3 => (ctl::OPS, RING_OPS * size_of::<OpRecord>()),
            4 => (ctl::GRANTS, MAX_GROUPS * ctl::GRANT_BYTES),
            5 => (ctl::TICKETS, MAX_TICKETS * size_of::<TicketRecord>()),
            6 => (ctl::ACKS, MAX_RANKS * MAX_TICKETS * 8),
            _ => (0, ctl::FILE_BYTES),
        };
        let at = start as u64 + dice.below(bytes as u64 / 4) * 4;
        match dice.one_in(2) {
            true => self.write(at, &dice.word().to_le_bytes()),
            false => self.write(at, &(dice.word() as u32).to_le_bytes()),
        }
    }

    /// Operations with any content, behind the ring's head.
    fn push_operations(&self, dice: &mut Dice) {
        let mut word = [0; 8];
        if self.file.read_exact_at(&mut word, ctl::RING as u64).is_err() {
            return;
        }
        let head = u64::from_le_bytes(word);
        let count = dice.below(32);
        for place in 0..count {
            let mut record = [0; size_of::<OpRecord>()];
            let op = dice.below(7) | dice.word() << 32 & if dice.one_in(4) { u64::MAX } else { 0 };
            let slot = self.leased.get(dice.below(64) as usize).copied().map_or_else(|| dice.word(), u64::from);
            let length = if dice.one_in(2) { 1 + dice.below(60_000) } else { dice.word() };
            record[..8].copy_from_slice(&op.to_le_bytes());
            record[8..16].copy_from_slice(&(slot & 0xffff_ffff | length << 32).to_le_bytes());
            record[16..52].copy_from_slice(&key(dice.below(64) as u32));
            if dice.one_in(2) {
                record[16 + dice.below(36) as usize] = dice.next() as u8;
            }
            record[56..].copy_from_slice(&dice.word().to_le_bytes());
            let at = head.wrapping_add(place) % RING_OPS as u64 * size_of::<OpRecord>() as u64;
            self.write(ctl::OPS as u64 + at, &record);
        }
        self.write(ctl::RING as u64, &head.wrapping_add(count).to_le_bytes());
    }

    /// Tickets that name any slots, and acknowledgements of any of them.
    fn write_tickets(&self, dice: &mut Dice) {
        let place = dice.below(MAX_TICKETS as u64);
        let at = ctl::TICKETS as u64 + place * size_of::<TicketRecord>() as u64;
        for slot in 0..dice.below(16) {
            self.write(at + 16 + slot * 4, &(dice.word() as u32).to_le_bytes());
        }
        self.write(at + 8, &(dice.word() as u32).to_le_bytes());
        let id = dice.word();
        self.write(at, &id.to_le_bytes());
        if dice.one_in(2) {
            (0..MAX_RANKS as u64)
                .for_each(|rank| self.write(ctl::ACKS as u64 + (rank * MAX_TICKETS as u64 + place) * 8, &id.to_le_bytes()));
        }
    }

    fn resize(&mut self, dice: &mut Dice) {
        let len = match dice.below(4) {
            0 => 0,
            1 => dice.below(ctl::FILE_BYTES as u64),
            2 => ctl::FILE_BYTES as u64 * 2,
            _ => ctl::FILE_BYTES as u64,
        };
        self.file.set_len(len).unwrap();
        self.is_short = len < ctl::FILE_BYTES as u64 && dice.one_in(2);
        self.file.set_len(if self.is_short { len } else { ctl::FILE_BYTES as u64 }).unwrap();
    }

    /// Write over slots that it has a lease of. Over others it can write too, and poison its own pool's cache; that is not what is shown here.
    fn scribble_slot(&self, root: &Path, arena: &File, dice: &mut Dice) {
        let Some(slot) = self.leased.get(dice.below(64) as usize).filter(|slot| u64::from(**slot) < 2 * EXTENT_BYTES / PAGE_BYTES) else {
            return;
        };
        let Ok(index) = Index::open(&root.join("index/index"), false) else { return };
        let record = Slot::load(index.slot(*slot));
        let starts_here = u64::from(*slot) % (MIN_STRIDE_BYTES / PAGE_BYTES) == 0;
        if starts_here && record.state == SlotState::Leased && Some(record.tag) == self.tag {
            let bytes: Vec<u8> = (0..256).map(|_| dice.next() as u8).collect();
            arena.write_all_at(&bytes, u64::from(*slot) * PAGE_BYTES + dice.below(MIN_STRIDE_BYTES - 256)).unwrap();
        }
    }
}

/// A name in the run folder that no honest engine made.
fn litter(root: &Path, id: [u8; 16], dice: &mut Dice) {
    let path = control_path(root, &id);
    match dice.below(6) {
        0 => std::fs::create_dir(&path).unwrap(),
        1 => std::os::unix::fs::symlink("/etc/hostname", &path).unwrap(),
        2 => std::fs::write(&path, vec![dice.next() as u8; dice.below(9000) as usize]).unwrap(),
        3 => _ = std::process::Command::new("mkfifo").arg(&path).status(),
        _ => {
            let file = false_control_file(root, &id);
            file.write_all_at(&CTL_MAGIC.to_le_bytes(), 0).unwrap();
            file.write_all_at(&ABI.to_le_bytes(), 8).unwrap();
            file.write_all_at(&id, 16).unwrap();
            for at in (12..512).step_by(4).filter(|at| !(16..32).contains(at)) {
                if dice.one_in(3) {
                    file.write_all_at(&(dice.word() as u32).to_le_bytes(), at).unwrap();
                }
            }
            if dice.one_in(2) {
                file.write_all_at(&1_u32.to_le_bytes(), 12).unwrap();
                file.write_all_at(&1_u32.to_le_bytes(), 32).unwrap();
                file.write_all_at(&STATE_NEW.to_le_bytes(), 36).unwrap();
            }
        }
    }
}

/// Truncates a control file that nobody holds, and restores it, all the time.
struct Toggler {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Toggler {
    fn over(path: PathBuf) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let seen = stop.clone();
        let run = move || {
            while !seen.load(Ordering::Relaxed) {
                if let Ok(file) = FileOptions::new().write(true).create(true).truncate(false).open(&path) {
                    file.set_len(0).unwrap();
                    file.set_len(ctl::FILE_BYTES as u64).unwrap();
                    file.write_all_at(&CTL_MAGIC.to_le_bytes(), 0).unwrap();
                }
                std::thread::sleep(Duration::from_micros(300));
            }
        };
        Self { stop, thread: Some(std::thread::spawn(run)) }
    }
}

impl Drop for Toggler {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
    }
}

struct Round {
    folder: tempfile::TempDir,
    dice: Dice,
    plane: Option<Plane>,
    honest: Option<Engine>,
    kept: VecDeque<u32>,
    next_number: u32,
    hostiles: Vec<Hostile>,
    next_id: u64,
    arena: File,
    inserted: VecDeque<Key16>,
    /// Descriptors that a plane may have left open for engines of this process that lived when it was dropped.
    left_open: usize,
    checked: u64,
}

impl Round {
    fn new(seed: u64) -> Self {
        let folder = folder();
        let mut plane = Plane::open(Self::options(folder.path())).unwrap();
        let honest = Engine::attach(&mut plane, folder.path(), 255, PAYLOAD);
        let arena = FileOptions::new().read(true).write(true).open(folder.path().join("arena/arena")).unwrap();
        Self {
            folder,
            dice: Dice(seed),
            plane: Some(plane),
            honest: Some(honest),
            kept: VecDeque::new(),
            next_number: 0,
            hostiles: Vec::new(),
            next_id: 1,
            arena,
            inserted: VecDeque::new(),
            left_open: 0,
            checked: 0,
        }
    }

    fn options(root: &Path) -> OpenOptions {
        OpenOptions { arena_bytes: 2 * EXTENT_BYTES, dead_grace: Duration::from_millis(20), ..with_nvme(root, 128) }
    }

    fn new_id(&mut self) -> [u8; 16] {
        self.next_id += 1;
        (u128::from(self.next_id) << 32 | 0xf022).to_le_bytes()
    }

    fn step(&mut self) {
        let root = self.folder.path().to_owned();
        match self.dice.below(16) {
            0 if self.hostiles.len() < MAX_HOSTILES => {
                let id = self.new_id();
                self.hostiles.push(Hostile::attach(&root, id, &mut self.dice));
            }
            1 if self.dice.one_in(8) => {
                let id = self.new_id();
                litter(&root, id, &mut self.dice);
            }
            2 if !self.hostiles.is_empty() && self.dice.one_in(4) => {
                let at = self.dice.below(self.hostiles.len() as u64) as usize;
                drop(self.hostiles.swap_remove(at));
            }
            3 if self.dice.one_in(60) => self.restart(),
            4 => _ = std::fs::OpenOptions::new().write(true).open(root.join("run/doorbell")).map(|bell| bell.write_at(&[1; 64], 0)),
            5 => self.command_plane(),
            _ => self.act(),
        }
        self.poll();
        if self.dice.one_in(8) {
            self.serve_honest();
        }
    }

    fn act(&mut self) {
        if self.hostiles.is_empty() {
            return;
        }
        let at = self.dice.below(self.hostiles.len() as u64) as usize;
        let (hostile, dice) = (&mut self.hostiles[at], &mut self.dice);
        match dice.below(16) {
            0..4 => hostile.behave(self.plane.as_mut().unwrap(), dice),
            4..8 => hostile.push_operations(dice),
            8..11 => (0..1 + dice.below(8)).for_each(|_| hostile.scribble(dice)),
            11..13 => hostile.write_tickets(dice),
            13 if dice.one_in(10) => hostile.resize(dice),
            _ => hostile.scribble_slot(self.folder.path(), &self.arena, dice),
        }
    }

    /// What a policy could do to the chunks of hostile engines; the honest one's are left alone, so that each must stay.
    fn command_plane(&mut self) {
        let plane = self.plane.as_mut().unwrap();
        let Some(key) = self.inserted.pop_front() else { return };
        match self.dice.below(4) {
            0 => _ = plane.write(&[key]),
            1 => _ = plane.evict_dram(&[key], false),
            2 => _ = plane.read(&[key]),
            _ => _ = plane.evict_nvme(&[key]),
        }
        _ = plane.nvme_neighbours(&[key], 2);
        _ = plane.stats();
        self.inserted.push_back(key);
        self.inserted.truncate(256);
    }

    fn poll(&mut self) {
        let plane = self.plane.as_mut().unwrap();
        let events: Vec<Event> = plane.poll(Duration::ZERO, 4096);
        for event in events {
            match event {
                Event::LeaseWanted { tag, group, count } => _ = plane.grant(tag, group.into(), count.min(2)),
                Event::Promote { key, .. } => _ = plane.read(&[key]),
                Event::Inserted { key, tag, .. } if tag != self.honest.as_ref().unwrap().tag => self.inserted.push_back(key),
                _ => {}
            }
        }
    }

    /// One more chunk, one less, and every byte of one of those that are kept.
    fn serve_honest(&mut self) {
        let number = 1 << 24 | self.next_number;
        self.next_number += 1;
        let (plane, honest) = (self.plane.as_mut().unwrap(), self.honest.as_mut().unwrap());
        until(plane, "a slot for the honest engine", |plane, _| honest.offer(plane, number));
        until(plane, "its chunk", |_, _| honest.check(number));
        self.kept.push_back(number);
        let any = self.kept[self.dice.below(self.kept.len() as u64) as usize];
        assert!(honest.check(any), "chunk {any} of the honest engine is gone");
        if self.kept.len() > KEPT {
            assert_eq!(evicted(&plane.evict_dram(&[key16(self.kept.pop_front().unwrap())], false)), 1);
        }
        self.checked += 1;
    }

    /// A successor takes over whatever the files say by now.
    fn restart(&mut self) {
        let plane = self.plane.take().unwrap();
        self.left_open += 1 + self.hostiles.len();
        drop(plane);
        for hostile in &self.hostiles {
            (0..self.dice.below(4)).for_each(|_| hostile.scribble(&mut self.dice));
        }
        self.plane = Some(Plane::open(Self::options(self.folder.path())).unwrap());
    }

    /// The arena goes last: that costs the whole pool its DRAM tier, and nothing more.
    fn end(mut self) -> usize {
        let root = self.folder.path().to_owned();
        self.hostiles.clear();
        let mut plane = self.plane.take().unwrap();
        let mut honest = self.honest.take().unwrap();
        until(&mut plane, "the burials", |plane, _| plane.stats().engines.len() == 1);
        assert!(honest.check(*self.kept.back().unwrap()));
        // Noticed where it is touched, and by whom: by a hash or by a header.
        self.arena.set_len(0).unwrap();
        if self.dice.one_in(2) {
            honest.offer(&mut plane, 1 << 25);
            self.arena.set_len(0).unwrap();
            plane.poll(Duration::from_millis(1), 64);
        }
        plane.write(&self.kept.iter().map(|number| key16(*number)).collect::<Vec<_>>());
        until(&mut plane, "the loss of the arena to be noticed", |plane, _| plane.stats().arena_poisoned);
        assert_eq!(honest.answer(*self.kept.back().unwrap()), MISS);
        drop(plane);
        drop(honest);
        // The next one begins anew.
        drop(Plane::open(Self::options(&root)).unwrap());
        assert!(self.checked > 0);
        self.left_open + 1
    }
}

/// Control files of any content, opened by themselves: what every one of their readers does with one that it was not made for.
fn random_files_are_read(dice: &mut Dice) {
    let folder = folder();
    std::fs::create_dir_all(folder.path().join("run")).unwrap();
    let id = dice.next().to_le_bytes().repeat(2).try_into().unwrap();
    let file = false_control_file(folder.path(), &id);
    let bytes: Vec<u8> = (0..8192).map(|_| dice.next() as u8).collect();
    file.write_all_at(&bytes, 0).unwrap();
    drop(Ctl::open(&control_path(folder.path(), &id)).unwrap());
    assert!(Attachment::new(folder.path(), &id, 1, 1, -1).is_err());
}

#[test]
fn hostile_engines_harm_nobody_else() {
    let figure = |name: &str| std::env::var(name).ok().map(|value| value.parse::<u64>().unwrap());
    let seconds = figure("SPILLWAY_FUZZ_SECONDS").unwrap_or(4);
    let first = figure("SPILLWAY_FUZZ_SEED").unwrap_or(1);
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        PANICS.fetch_add(1, Ordering::Relaxed);
        before(info);
    }));
    let end = Instant::now() + Duration::from_secs(seconds);
    let (mut seed, mut steps, mut checked, mut descriptors) = (first, 0, 0, None);
    while Instant::now() < end {
        eprintln!("seed {seed}, {steps} steps so far");
        let mut round = Round::new(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        random_files_are_read(&mut round.dice);
        let toggler = Toggler::over(control_path(round.folder.path(), &[0xee; 16]));
        for _ in 0..STEPS_PER_ROUND {
            round.step();
            steps += 1;
            if Instant::now() >= end && round.checked > 0 {
                break;
            }
        }
        drop(toggler);
        checked += round.checked;
        let allowed = round.end();
        let open = open_descriptors();
        if let Some(first) = descriptors {
            assert!(open <= first + allowed, "{open} descriptors are open, {first} were, {allowed} may have been left (seed {seed})");
        }
        descriptors = Some(open);
        seed += 1;
    }
    eprintln!("{} rounds, {steps} steps, {checked} chunks of the honest engine stored and compared", seed - first);
    assert_eq!(PANICS.load(Ordering::Relaxed), 0, "panics somewhere");
}
