//! What an engine can write, truncate or put in the way, and what it must not do to the sidecar or to its neighbours.
#![allow(clippy::unwrap_used)]

mod plane_kit;

use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use plane_kit::*;
use spillway_engine::attach::Attachment;
use spillway_engine::control::{REFUSED_GEOMETRY, STATE_REFUSED};
use spillway_engine::header::{Page, SlotHeader};
use spillway_engine::layout::{CtlHeader, EXTENT_BYTES, PAGE_BYTES, ctl};
use spillway_engine::plane::{Event, OpenOptions, Plane};

const PAYLOAD: usize = 100_000;

/// Sums that no slot can have, at each edge where adding a header or rounding to pages would wrap.
const IMPOSSIBLE: [u64; 8] =
    [u64::MAX, u64::MAX - 4095, u64::MAX - 4096, u64::MAX - 4097, u64::MAX - 8191, u64::MAX - 8192, 1 << 63, EXTENT_BYTES];

fn offset_in_header(field: &str) -> u64 {
    CtlHeader::FIELDS.iter().find(|(name, ..)| *name == field).unwrap().1 as u64
}

#[test]
fn impossible_slices_refuse_their_engine_alone() {
    let _alone = alone();
    let folder = folder();
    let mut plane = Plane::open(options(folder.path())).unwrap();
    let mut neighbour = Engine::attach(&mut plane, folder.path(), 1, PAYLOAD);
    for (at, bytes) in IMPOSSIBLE.into_iter().enumerate() {
        let mut rank = Attachment::new(folder.path(), &[100 + at as u8; 16], 1, 1, 0).unwrap();
        rank.declare_slices(&[bytes]).unwrap();
        until(&mut plane, "the refusal", |_, _| rank.state() == (STATE_REFUSED, REFUSED_GEOMETRY));
    }
    until(&mut plane, "a lease", |plane, _| neighbour.offer(plane, 1));
    until(&mut plane, "the neighbour's chunk", |_, _| neighbour.check(1));
}

#[test]
fn a_successor_opens_whatever_a_control_file_says_by_then() {
    let _alone = alone();
    let folder = folder();
    for bytes in IMPOSSIBLE {
        let mut plane = Plane::open(options(folder.path())).unwrap();
        let engine = Engine::attach(&mut plane, folder.path(), 1, PAYLOAD);
        drop(plane);
        let file = std::fs::OpenOptions::new().write(true).open(control_path(folder.path(), &[1; 16])).unwrap();
        file.write_all_at(&bytes.to_le_bytes(), offset_in_header("payload_bytes")).unwrap();
        let mut successor = Plane::open(options(folder.path())).unwrap();
        assert_eq!(engine.scheduler.state().0, STATE_REFUSED, "{bytes}");
        drop(engine);
        until(&mut successor, "its burial", |plane, _| plane.stats().engines.is_empty());
    }
}

/// Truncates and restores control files as fast as it can, as an engine could.
fn toggle(paths: Vec<std::path::PathBuf>, stop: Arc<AtomicBool>) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        let files: Vec<_> = paths.iter().map(|path| std::fs::OpenOptions::new().write(true).open(path).unwrap()).collect();
        while !stop.load(Ordering::Relaxed) {
            for file in &files {
                file.set_len(0).unwrap();
                file.set_len(ctl::FILE_BYTES as u64).unwrap();
            }
        }
    })
}

#[test]
fn a_file_that_shrinks_while_it_is_met_is_caught() {
    let _alone = alone();
    let folder = folder();
    let mut plane = Plane::open(options(folder.path())).unwrap();
    let mut neighbour = Engine::attach(&mut plane, folder.path(), 1, PAYLOAD);
    let mut number = 0_u64;
    let end = Instant::now() + Duration::from_secs(3);
    while Instant::now() < end {
        number += 1;
        let ids: Vec<[u8; 16]> = (0..4).map(|at| (u128::from(number) << 8 | at).to_le_bytes()).collect();
        ids.iter().for_each(|id| drop(false_control_file(folder.path(), id)));
        let stop = Arc::new(AtomicBool::new(false));
        let toggler = toggle(ids.iter().map(|id| control_path(folder.path(), id)).collect(), stop.clone());
        for _ in 0..8 {
            plane.poll(Duration::from_millis(5), 1024);
        }
        stop.store(true, Ordering::Relaxed);
        toggler.join().unwrap();
        ids.iter().for_each(|id| _ = std::fs::remove_file(control_path(folder.path(), id)));
    }
    until(&mut plane, "a lease", |plane, _| neighbour.offer(plane, 1));
    until(&mut plane, "the neighbour's chunk", |_, _| neighbour.check(1));
}

#[test]
fn stale_files_that_shrink_while_an_index_is_retired_are_caught() {
    let _alone = alone();
    let folder = folder();
    drop(Plane::open(options(folder.path())).unwrap());
    let ids: Vec<[u8; 16]> = (0..4).map(|at| [at + 1; 16]).collect();
    ids.iter().for_each(|id| drop(false_control_file(folder.path(), id)));
    let stop = Arc::new(AtomicBool::new(false));
    let toggler = toggle(ids.iter().map(|id| control_path(folder.path(), id)).collect(), stop.clone());
    let end = Instant::now() + Duration::from_secs(3);
    while Instant::now() < end {
        // An index that is damaged is replaced, and what was attached to it refused.
        let index = std::fs::OpenOptions::new().write(true).open(folder.path().join("index/index")).unwrap();
        index.write_all_at(&[0; 8], 0).unwrap();
        drop(Plane::open(options(folder.path())).unwrap());
    }
    stop.store(true, Ordering::Relaxed);
    toggler.join().unwrap();
}

#[test]
fn false_control_files_cost_few_descriptors_and_go_away() {
    let _alone = alone();
    let folder = folder();
    let mut plane = Plane::open(options(folder.path())).unwrap();
    // A test before this one may still be closing what it had, so that fewer are open later.
    let before = open_descriptors();
    for number in 0..500_u128 {
        drop(false_control_file(folder.path(), &(number + 7).to_le_bytes()));
    }
    let end = Instant::now() + Duration::from_secs(1);
    let mut most = 0;
    while Instant::now() < end {
        plane.poll(Duration::from_millis(20), 1024);
        most = most.max(open_descriptors().saturating_sub(before));
    }
    assert!(most <= 64, "{most} descriptors for false control files");
    // Behind all of them an honest engine gets its turn, and they are removed, as nobody holds a lock on them.
    let mut engine = Engine::attach(&mut plane, folder.path(), 255, PAYLOAD);
    until(&mut plane, "a lease", |plane, _| engine.offer(plane, 1));
    until(&mut plane, "its chunk", |_, _| engine.check(1));
    let control_files = || std::fs::read_dir(folder.path().join("run")).unwrap().count() - 1;
    until(&mut plane, "their removal", |_, _| control_files() == 1);
    assert!(open_descriptors() <= before + 8, "{} descriptors stay", open_descriptors() - before);
}

#[test]
fn things_in_the_place_of_doorbell_and_arena_are_cleared_away() {
    let _alone = alone();
    let folder = folder();
    let mut id = 0;
    for name in ["run/doorbell", "arena/arena"] {
        let path = folder.path().join(name);
        for kind in ["folder", "file", "link"] {
            id += 1;
            drop(Plane::open(options(folder.path())).unwrap());
            std::fs::remove_file(&path).unwrap();
            match kind {
                "folder" => {
                    std::fs::create_dir(&path).unwrap();
                    std::fs::write(path.join("more"), "x").unwrap();
                }
                "file" => std::fs::write(&path, "x").unwrap(),
                _ => std::os::unix::fs::symlink("/etc/hostname", &path).unwrap(),
            }
            let mut plane = Plane::open(options(folder.path())).unwrap_or_else(|error| panic!("{name} is a {kind}: {error}"));
            let mut engine = Engine::attach(&mut plane, folder.path(), id, PAYLOAD);
            until(&mut plane, "a lease", |plane, _| engine.offer(plane, 1));
            until(&mut plane, "its chunk", |_, _| engine.check(1));
            // Woken by it, not by a timeout: anything else in the doorbell's place would never be waited on.
            let meta = std::fs::symlink_metadata(folder.path().join("run/doorbell")).unwrap();
            assert!(std::os::unix::fs::FileTypeExt::is_fifo(&meta.file_type()), "{name} was a {kind}");
            drop(engine);
        }
    }
    assert!(std::fs::metadata("/etc/hostname").unwrap().is_file());
}

#[test]
fn a_generation_at_the_end_of_its_range_is_damage() {
    let _alone = alone();
    let folder = folder();
    let open = || Plane::open(OpenOptions { ..with_nvme(folder.path(), 128) }).unwrap();
    let mut plane = open();
    let mut engine = Engine::attach(&mut plane, folder.path(), 1, PAYLOAD);
    put_on_nvme(&mut plane, &mut engine, 1..2);
    drop((plane, engine));
    // The device's header is rewritten, whole and with a sound checksum, as a foreign disk could have it.
    let file = std::fs::OpenOptions::new().read(true).write(true).open(folder.path().join("nvme/slot-0/chunks")).unwrap();
    let pages = file.metadata().unwrap().len() / PAGE_BYTES;
    let mut page: Page = [0; PAGE_BYTES as usize];
    let at = (0..pages).find(|at| {
        file.read_exact_at(&mut page, at * PAGE_BYTES).unwrap();
        SlotHeader::decode(&page).is_ok()
    });
    let mut header = SlotHeader::decode(&page).unwrap();
    header.generation = u64::MAX;
    header.encode_into(&mut page);
    file.write_all_at(&page, at.unwrap() * PAGE_BYTES).unwrap();
    std::fs::remove_file(folder.path().join("index/index")).unwrap();

    let mut plane = open();
    until(&mut plane, "the scan", |plane, _| plane.is_scan_done());
    let mut engine = Engine::attach(&mut plane, folder.path(), 2, PAYLOAD);
    put_on_nvme(&mut plane, &mut engine, 2..3);
    assert_eq!(plane.tiers(&[key16(1)]), [0]);
    let events = until(&mut plane, "nothing", |_, _| true);
    assert_eq!(count!(events, Event::EngineRefused { .. }), 0);
}
