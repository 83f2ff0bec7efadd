//! ABI N works with N-1 in both orders. The other side's part is played by its bytes: `abi_1/` holds what a build of ABI 1 (of the commit
//! before 481ecba, which knew no expulsion) left after storing two chunks, with its engine inside a step and a ticket on the first chunk.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used)]

mod plane_kit;

use std::fs::{File, OpenOptions as FileOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use plane_kit::*;
use spillway_engine::attach::{Attachment, HIT};
use spillway_engine::control::REFUSED_ABI;
use spillway_engine::error::CoreError;
use spillway_engine::layout::*;
use spillway_engine::plane::{Event, OpenOptions, Plane};

const PAYLOAD: usize = 100_000;
/// Longer than a step may take before its engine is expelled.
const LONGER_THAN_A_STEP: Duration = Duration::from_millis(5_500);
const OLD_ENGINE: [u8; 16] = [1; 16];

fn offset_of(fields: &[(&str, usize, usize)], name: &str) -> u64 {
    fields.iter().find(|(field, ..)| *field == name).unwrap().1 as u64
}

fn put(file: &File, fields: &[(&str, usize, usize)], name: &str, bytes: &[u8]) {
    file.write_all_at(bytes, offset_of(fields, name)).unwrap();
}

fn word(file: &File, fields: &[(&str, usize, usize)], name: &str) -> u32 {
    let mut bytes = [0; 4];
    file.read_exact_at(&mut bytes, offset_of(fields, name)).unwrap();
    u32::from_le_bytes(bytes)
}

fn edit(path: &Path) -> File {
    FileOptions::new().read(true).write(true).open(path).unwrap()
}

/// Write a file of ABI 1 again: its length, then per row of 16 bytes that are not all zero the offset and the bytes.
fn restore(path: &Path, text: &str) {
    let file = File::create_new(path).unwrap();
    let mut lines = text.lines();
    file.set_len(lines.next().unwrap().parse().unwrap()).unwrap();
    for line in lines {
        let (at, hex) = line.split_once(' ').unwrap();
        let row: Vec<u8> = (0..16).map(|byte| u8::from_str_radix(&hex[2 * byte..2 * byte + 2], 16).unwrap()).collect();
        file.write_all_at(&row, at.parse().unwrap()).unwrap();
    }
}

/// A pod as a sidecar of ABI 1 left it.
fn pod_of_abi_1() -> tempfile::TempDir {
    let folder = folder();
    for name in ["arena", "index", "run"] {
        std::fs::create_dir(folder.path().join(name)).unwrap();
    }
    restore(&folder.path().join("index/index"), include_str!("abi_1/index.txt"));
    restore(&control_path(folder.path(), &OLD_ENGINE), include_str!("abi_1/control.txt"));
    File::create_new(folder.path().join("arena/arena")).unwrap().set_len(EXTENT_BYTES).unwrap();
    folder
}

/// Nobody holds the old engine's lock here, and it shall not be buried.
fn patient(root: &Path) -> OpenOptions {
    OpenOptions { dead_grace: Duration::from_secs(600), ..options(root) }
}

#[test]
fn a_sidecar_takes_over_from_the_abi_before_and_waits_for_its_engine_as_that_did() {
    let folder = pod_of_abi_1();
    let mut plane = Plane::open(patient(folder.path())).unwrap();
    assert!(plane.report().adopted, "{}", plane.report().reason);
    assert_eq!((plane.report().adopted_chunks, plane.report().engines_kept), (2, 1));
    let index = edit(&folder.path().join("index/index"));
    assert_eq!(word(&index, IndexHeader::FIELDS, "abi"), 1, "a client of ABI 1 asks for exactly this");
    assert_eq!(word(&index, IndexHeader::FIELDS, "sidecar_abi"), ABI);

    // The engine does not look whether it was expelled, so what its step may have looked up stays.
    assert_eq!(evicted(&plane.evict_dram(&[key16(0), key16(1)], false)), 2);
    let began = Instant::now();
    until(&mut plane, "a time in which another engine is expelled", |_, _| began.elapsed() > LONGER_THAN_A_STEP);
    assert_eq!((plane.stats().recycling_slots, plane.stats().steps_expelled), (2, 0));
    let control = edit(&control_path(folder.path(), &OLD_ENGINE));
    assert_eq!(word(&control, CtlHeader::FIELDS, "expelled_epoch"), 0, "no such word in ABI 1");
    put(&control, CtlHeader::FIELDS, "active_epoch", &[0; 8]);
    until(&mut plane, "the end of its step", |plane, _| plane.stats().recycling_slots == 1);
    control.write_all_at(&256u64.to_le_bytes(), ctl::ACKS as u64).unwrap();
    until(&mut plane, "the end of its ticket", |plane, _| plane.stats().recycling_slots == 0);
}

#[test]
fn an_engine_attaches_to_a_sidecar_of_the_abi_before() {
    let folder = pod_of_abi_1();
    let root = folder.path();
    let mut scheduler = Attachment::new(root, &[2; 16], 1, 1, -1).unwrap();
    let control = edit(&control_path(root, &[2; 16]));
    assert_eq!(word(&control, CtlHeader::FIELDS, "abi"), 1, "a sidecar of ABI 1 asks for exactly this");
    assert_eq!(word(&control, CtlHeader::FIELDS, "client_abi"), ABI);
    assert!(scheduler.try_map().unwrap());
    // What that sidecar answers.
    put(&control, CtlHeader::FIELDS, "tag", &1u32.to_le_bytes());
    put(&control, CtlHeader::FIELDS, "payload_bytes", &(PAYLOAD as u64).to_le_bytes());
    put(&control, CtlHeader::FIELDS, "geometry_ready", &1u32.to_le_bytes());
    put(&control, CtlHeader::FIELDS, "state", &1u32.to_le_bytes());
    assert!(scheduler.set_fingerprint(FINGERPRINT).unwrap());
    let mut answers = [9; 2];
    scheduler.lookup(&[key(0), key(1)].concat(), &mut answers).unwrap();
    assert_eq!(answers, [HIT, HIT]);
    assert_eq!(scheduler.take_ticket(&key(1)).unwrap().unwrap().1, [26]);
    scheduler.end_step();
}

/// An engine whose client says these two words before the sidecar sees it.
fn engine_of(root: &Path, id: [u8; 16], oldest: u32, own: u32) -> (Attachment, Attachment) {
    let scheduler = Attachment::new(root, &id, 1, 1, -1).unwrap();
    let mut rank = Attachment::new(root, &id, 1, 1, 0).unwrap();
    rank.declare_slices(&[PAYLOAD as u64]).unwrap();
    let control = edit(&control_path(root, &id));
    put(&control, CtlHeader::FIELDS, "abi", &oldest.to_le_bytes());
    put(&control, CtlHeader::FIELDS, "client_abi", &own.to_le_bytes());
    // What a later client may have appended.
    put(&control, CtlHeader::FIELDS, "pad_expelled", &[0xff; 56]);
    (scheduler, rank)
}

#[test]
fn an_engine_of_the_next_abi_is_served_and_one_of_the_abi_after_that_is_refused() {
    let folder = folder();
    let mut plane = Plane::open(options(folder.path())).unwrap();
    let (next, _rank) = engine_of(folder.path(), [3; 16], ABI, ABI + 1);
    until(&mut plane, "the next ABI's geometry", |_, _| next.geometry().is_some());

    let (after, _rank) = engine_of(folder.path(), [4; 16], ABI + 1, ABI + 2);
    let events = until(&mut plane, "the refusal", |_, events| count!(events, Event::EngineRefused { .. }) == 1);
    assert_eq!(count!(events, Event::EngineRefused { reason: REFUSED_ABI, .. }), 1);
    assert_eq!(after.state(), (2, REFUSED_ABI));
}

#[test]
fn an_index_of_the_next_abi_is_mapped_and_one_of_the_abi_after_that_is_refused_in_words() {
    let folder = folder();
    let mut plane = Plane::open(options(folder.path())).unwrap();
    let index = edit(&folder.path().join("index/index"));
    put(&index, IndexHeader::FIELDS, "abi", &ABI.to_le_bytes());
    put(&index, IndexHeader::FIELDS, "sidecar_abi", &(ABI + 1).to_le_bytes());
    put(&index, IndexHeader::FIELDS, "spare", &[0xff; 16]);
    let mut engine = Engine::attach(&mut plane, folder.path(), 1, PAYLOAD);
    until(&mut plane, "a lease", |plane, _| engine.offer(plane, 0));
    until(&mut plane, "the chunk", |_, _| engine.check(0));

    put(&index, IndexHeader::FIELDS, "abi", &(ABI + 1).to_le_bytes());
    put(&index, IndexHeader::FIELDS, "sidecar_abi", &(ABI + 2).to_le_bytes());
    let mut late = Attachment::new(folder.path(), &[2; 16], 1, 1, -1).unwrap();
    let error = late.try_map().unwrap_err();
    assert!(matches!(error, CoreError::Abi { .. }));
    let words = format!("ABI {}, this build works with {OLDEST_ABI} to {ABI}; restart the older", ABI + 2);
    assert!(error.to_string().contains(&words), "{error}");
}

#[test]
fn a_sidecar_that_is_rolled_back_takes_over_from_the_next_abi() {
    let folder = folder();
    let mut plane = Plane::open(options(folder.path())).unwrap();
    let mut engine = Engine::attach(&mut plane, folder.path(), 1, PAYLOAD);
    until(&mut plane, "a lease", |plane, _| engine.offer(plane, 0));
    until(&mut plane, "the chunk", |_, _| engine.check(0));
    drop(plane);
    let index = edit(&folder.path().join("index/index"));
    put(&index, IndexHeader::FIELDS, "abi", &ABI.to_le_bytes());
    put(&index, IndexHeader::FIELDS, "sidecar_abi", &(ABI + 1).to_le_bytes());
    put(&index, IndexHeader::FIELDS, "spare", &[0xff; 16]);
    let plane = Plane::open(options(folder.path())).unwrap();
    assert!(plane.report().adopted, "{}", plane.report().reason);
    assert!(engine.check(0));
    assert_eq!(word(&index, IndexHeader::FIELDS, "abi"), OLDEST_ABI);
    assert_eq!(word(&index, IndexHeader::FIELDS, "sidecar_abi"), ABI);
}
