//! The NVMe store on a real file system: what it makes, keeps, finds again and refuses.

mod nvme_kit;

use std::path::Path;
use std::process::Command;

use nvme_kit::*;
use spillway_engine::header::{QUARANTINE_MAGIC, SlotHeader};
use spillway_engine::io::PageBuffer;
use spillway_engine::nvme::{Direct, NvmeConfig, NvmeError, NvmeStore};

#[test]
fn chunks_come_back_as_they_went() {
    let dir = disk_folder();
    let (mut kit, report) = open(dir.path(), &config(200));
    assert!(!report.adopted && report.slot_number == 0 && report.store_id != [0; 16]);
    let strides = [64 << 10, STRIDE, 4 * MIB, 64 * MIB];
    let slots: Vec<u64> = strides.iter().take(3).enumerate().map(|(seed, stride)| kit.put(seed as u8, *stride)).collect();
    assert_eq!(kit.store.alloc(64 * MIB), None, "the last extent is a short one");
    for (seed, (slot, stride)) in slots.into_iter().zip(strides).enumerate() {
        assert!(kit.holds(slot, seed as u8, stride), "stride {stride}");
    }
    let stats = kit.store.stats();
    assert_eq!(stats.written_bytes, strides[..3].iter().sum::<u64>(), "every byte is written once");
    assert_eq!((stats.writes, stats.reads, stats.used_slots), (3, 3, 3));
}

#[test]
fn o_direct_is_in_force_when_reported() {
    let dir = disk_folder();
    let direct = |direct| NvmeConfig { direct, ..config(16) };
    let (kit, report) = open(dir.path(), &direct(Direct::Required));
    assert!(report.direct);
    assert!(open_flags(dir.path()).iter().any(|flags| flags & libc::O_DIRECT != 0), "the kernel holds O_DIRECT for the store's file");
    drop(kit);
    let (_kit, report) = open(dir.path(), &direct(Direct::Off));
    assert!(!report.direct && report.adopted && report.reason.is_empty());
    assert!(open_flags(dir.path()).iter().all(|flags| flags & libc::O_DIRECT == 0));
}

/// Flags of this process's descriptors of the store's file, as the kernel tells them.
fn open_flags(dir: &Path) -> Vec<i32> {
    let file = file_of(dir);
    let flags = |number: &str| {
        let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{number}")).ok()?;
        let text = info.lines().find_map(|line| line.strip_prefix("flags:"))?;
        i32::from_str_radix(text.trim(), 8).ok()
    };
    let descriptors = std::fs::read_dir("/proc/self/fd").expect("procfs").flatten();
    let ours = descriptors.filter(|entry| std::fs::read_link(entry.path()).is_ok_and(|target| target == file));
    ours.filter_map(|entry| flags(&entry.file_name().to_string_lossy())).collect()
}

#[test]
fn a_store_survives_its_process() {
    let dir = disk_folder();
    let (mut kit, first) = open(dir.path(), &config(100));
    let small = kit.put(1, STRIDE);
    let large = kit.put(2, MIB);
    assert!(kit.store.alloc(STRIDE).is_none_or(|slot| slot != small));
    drop(kit);
    let (mut kit, second) = open(dir.path(), &config(100));
    assert!(second.adopted && second.store_id == first.store_id);
    let (sound, faults) = kit.scan();
    assert_eq!((sound, faults), (vec![small.min(large), small.max(large)], vec![]));
    assert!(kit.holds(small, 1, STRIDE) && kit.holds(large, 2, MIB));
}

#[test]
fn a_surviving_index_claims_its_slots_without_a_scan() {
    let dir = disk_folder();
    let (mut kit, _) = open(dir.path(), &config(65));
    let slot = kit.put(1, STRIDE);
    let total = kit.store.usage(STRIDE).1;
    drop(kit);
    let (mut kit, _) = open(dir.path(), &config(65));
    assert!(kit.store.claim(slot, STRIDE) && !kit.store.claim(slot, STRIDE));
    assert_eq!(kit.store.usage(STRIDE), (total - 1, total));
    let others: Vec<u64> = std::iter::from_fn(|| kit.store.alloc(STRIDE)).collect();
    assert_eq!(others.len() as u64, total - 1);
    assert!(!others.contains(&slot));
}

#[test]
fn damaged_headers_are_quarantined_once() {
    let dir = disk_folder();
    let (mut kit, _) = open(dir.path(), &config(65));
    let slots: Vec<u64> = (0..4).map(|seed| kit.put(seed, STRIDE)).collect();
    drop(kit);
    let at = |slot: u64| slot * PAGE as u64;
    damage(dir.path(), at(slots[0]) + 20, &[0xFF]);
    damage(dir.path(), at(slots[1]), &[0xAB; PAGE]);
    damage(dir.path(), at(slots[2]) + 3000, &[1]);
    let (mut kit, _) = open(dir.path(), &config(65));
    let (sound, faults) = kit.scan();
    assert_eq!(sound, [slots[3]]);
    let reasons: Vec<&str> = faults.iter().map(|(_, reason)| reason.as_str()).collect();
    assert_eq!(reasons, ["header checksum", "magic", "bytes behind the header"]);
    kit.sync();
    drop(kit);
    assert_eq!(peek(dir.path(), at(slots[0]), 8), QUARANTINE_MAGIC);
    let (mut kit, _) = open(dir.path(), &config(65));
    assert_eq!(kit.scan(), (vec![slots[3]], vec![]), "a quarantined slot is free and counted no more");
    assert_eq!(kit.store.stats().used_slots, 1);
}

#[test]
fn a_flipped_payload_bit_is_seen_by_the_checksum() {
    let dir = disk_folder();
    let (mut kit, _) = open(dir.path(), &config(65));
    let slot = kit.put(7, STRIDE);
    drop(kit);
    damage(dir.path(), slot * PAGE as u64 + 100_000, &[0x80]);
    let (mut kit, _) = open(dir.path(), &config(65));
    assert_eq!(kit.scan().0, [slot], "the scan reads headers only");
    let mut buffer = PageBuffer::new(STRIDE as usize / PAGE);
    let token = kit.submit_read(slot, &mut buffer);
    kit.arrived(token).expect("a good device");
    let header = SlotHeader::decode(buffer.page(0)).expect("a sound header");
    let payload: Vec<u8> = (1..STRIDE as usize / PAGE).flat_map(|page| *buffer.page(page)).collect();
    assert_ne!(spillway_engine::checksum::payload(&payload), header.payload_checksum);
    kit.quarantine(slot, STRIDE);
    assert_eq!(kit.store.stats().used_slots, 0, "quarantined means free");
}

#[test]
fn a_misplaced_slot_tells_where_it_belongs() {
    let dir = disk_folder();
    let (mut kit, _) = open(dir.path(), &config(65));
    let (slot, other) = (kit.put(1, STRIDE), kit.put(2, STRIDE));
    drop(kit);
    let bytes = peek(dir.path(), slot * PAGE as u64, STRIDE as usize);
    damage(dir.path(), other * PAGE as u64, &bytes);
    let (mut kit, _) = open(dir.path(), &config(65));
    assert_eq!(kit.scan().0, [slot, other], "whose copy is the right one is the plane's to say");
    let mut buffer = PageBuffer::new(1);
    let token = kit.submit_read(other, &mut buffer);
    kit.arrived(token).expect("a good device");
    assert_eq!(SlotHeader::decode(buffer.page(0)).expect("a sound header").position, slot);
}

#[test]
fn an_extent_that_changes_class_shows_no_old_headers() {
    let dir = disk_folder();
    let (mut kit, _) = open(dir.path(), &config(65));
    let slots: Vec<u64> = (0..20).map(|seed| kit.put(seed, STRIDE)).collect();
    slots.iter().for_each(|slot| kit.store.free(*slot));
    let large = kit.put(99, 3 * MIB);
    kit.store.free(large);
    let small = kit.put(100, STRIDE);
    drop(kit);
    let (mut kit, _) = open(dir.path(), &config(65));
    assert_eq!(kit.scan(), (vec![small], vec![]));
}

#[test]
fn unscanned_slots_are_handed_out_last_and_their_scan_is_dropped() {
    let dir = disk_folder();
    let (mut kit, _) = open(dir.path(), &config(2));
    let count = kit.store.usage(STRIDE).1;
    let slots: Vec<u64> = (0..count).map(|seed| kit.put(seed as u8, STRIDE)).collect();
    drop(kit);
    let (mut kit, _) = open(dir.path(), &config(2));
    kit.store.start_scan();
    // No completion was taken yet, so nothing is scanned in the book: what comes is an unscanned slot.
    let given = kit.store.alloc(STRIDE).expect("a last resort");
    kit.wait("the end of the scan", |completion| matches!(completion, spillway_engine::nvme::Completion::ScanDone).then_some(()));
    let scanned = |completion: &spillway_engine::nvme::Completion| match completion {
        spillway_engine::nvme::Completion::Scanned { slot, .. } => Some(*slot),
        _ => None,
    };
    let sound: Vec<u64> = kit.seen.iter().filter_map(scanned).collect();
    assert!(slots.contains(&given) && !sound.contains(&given));
    assert_eq!(sound.len() as u64, count - 1);
}

#[test]
fn two_daemons_never_share_a_store() {
    let dir = disk_folder();
    let (kit, _) = open(dir.path(), &config(4));
    match NvmeStore::open(dir.path(), &config(4)) {
        Err(error @ NvmeError::NoFreeSlot { .. }) => assert_eq!(error.reason(), "no_free_slot"),
        other => panic!("{other:?}"),
    }
    let (_second, report) = open(dir.path(), &NvmeConfig { slots: 2, ..config(4) });
    assert_eq!(report.slot_number, 1);
    drop(kit);
    let (_third, report) = open(dir.path(), &NvmeConfig { slots: 2, ..config(4) });
    assert_eq!((report.slot_number, report.adopted), (0, true), "a freed slot is adopted");
}

#[test]
fn a_foreign_or_changed_store_is_made_anew_and_says_why() {
    let dir = disk_folder();
    let (mut kit, first) = open(dir.path(), &config(65));
    kit.put(1, STRIDE);
    drop(kit);
    let (kit, report) = open(dir.path(), &config(70));
    assert!(!report.adopted && report.reason == "reformatted" && report.store_id != first.store_id);
    assert!(report.message.contains(&format!("made for {} bytes, {} are configured", 65 * MIB, 70 * MIB)), "{}", report.message);
    drop(kit);
    damage(dir.path(), 17, &[0x5A]);
    let (kit, report) = open(dir.path(), &config(70));
    assert!(report.message.contains("the superblock is damaged"), "{}", report.message);
    drop(kit);
    std::fs::write(file_of(dir.path()), b"short").expect("write");
    let (kit, report) = open(dir.path(), &config(70));
    assert!(report.message.contains("its file has 5 bytes"), "{}", report.message);
    assert_eq!(kit.store.stats().used_slots, 0);
}

#[test]
fn a_damaged_extent_table_loses_its_extents_and_no_more() {
    let dir = disk_folder();
    let (mut kit, _) = open(dir.path(), &config(65));
    kit.put(1, STRIDE);
    drop(kit);
    damage(dir.path(), PAGE as u64 + 8, &[0x77]);
    let (mut kit, report) = open(dir.path(), &config(65));
    assert!(report.adopted && report.reason == "table_damaged", "{report:?}");
    assert_eq!(kit.scan(), (vec![], vec![]));
    let slot = kit.put(2, MIB);
    assert!(kit.holds(slot, 2, MIB));
    drop(kit);
    let (mut kit, report) = open(dir.path(), &config(65));
    assert!(report.reason.is_empty());
    assert_eq!(kit.scan(), (vec![slot], vec![]), "no header of the lost class is left");
}

#[test]
fn settings_that_move_nothing_are_refused() {
    let dir = disk_folder();
    for wrong in [NvmeConfig { io_threads: 0, ..config(16) }, config(1)] {
        let error = NvmeStore::open(dir.path(), &wrong).expect_err("refused");
        assert_eq!(error.reason(), "invalid_config", "{error}");
    }
}

/// An ext4 of 64 MiB on a loop device, unmounted on drop. None, said aloud, when this user may not mount.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount(options: &str) -> Option<Self> {
        let dir = disk_folder();
        let (image, point) = (dir.path().join("image"), dir.path().join("mnt"));
        std::fs::create_dir(&point).expect("a folder");
        std::fs::File::create(&image).and_then(|file| file.set_len(64 * MIB)).expect("an image");
        let run =
            |program: &str, arguments: &[&str]| Command::new(program).args(arguments).output().is_ok_and(|output| output.status.success());
        let image = image.to_string_lossy().into_owned();
        let mounted = run("mkfs.ext4", &["-q", &image]) && run("mount", &["-o", options, &image, &point.to_string_lossy()]);
        if !mounted {
            eprintln!("SKIPPED: this user may not mount a loop device");
        }
        mounted.then_some(Self(dir))
    }

    fn path(&self) -> std::path::PathBuf {
        self.0.path().join("mnt")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg(self.path()).status().is_ok_and(|status| status.success());
        // A store that was dropped holds nothing of its volume.
        assert!(unmounted || std::thread::panicking(), "the volume is busy");
    }
}

#[test]
fn a_volume_too_small_is_said_with_both_figures_and_left_clean() {
    let Some(disk) = SmallDisk::mount("loop") else { return };
    let error = NvmeStore::open(&disk.path(), &config(100)).expect_err("100 MiB in 64");
    let NvmeError::VolumeTooSmall { wanted_bytes, free_bytes, .. } = &error else { panic!("{error:?}") };
    assert_eq!(*wanted_bytes, 100 * MIB);
    assert!((30 * MIB..64 * MIB).contains(free_bytes), "{free_bytes}");
    assert_eq!(error.reason(), "volume_too_small");
    let left: Vec<_> = std::fs::read_dir(disk.path().join("slot-0")).expect("the slot").flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(left, ["lock"]);
    let (mut kit, _) = open(&disk.path(), &config(32));
    let slot = kit.put(1, STRIDE);
    assert!(kit.holds(slot, 1, STRIDE), "a store that fits works on the same volume");
}

#[test]
fn a_store_is_as_long_as_asked_and_leaves_its_reserve_free() {
    let Some(disk) = SmallDisk::mount("loop") else { return };
    let greedy = NvmeConfig { reserve_percent: 100, ..config(40) };
    let error = NvmeStore::open(&disk.path(), &greedy).expect_err("40 MiB and as much again in 64");
    assert_eq!(error.reason(), "volume_too_small");
    let message = error.to_string();
    assert!(message.contains("a store of 40.0 MiB and a reserve of 40.0 MiB do not fit"), "{message}");
    let kit = open(&disk.path(), &NvmeConfig { reserve_percent: 5, ..config(40) });
    let file = std::fs::metadata(file_of(&disk.path())).expect("the store's file");
    assert_eq!(file.len(), 40 * MIB);
    drop(kit);
    std::fs::write(disk.path().join("hog"), vec![1; 64 << 20]).expect_err("the volume is full");
    let (_, report) = open(&disk.path(), &NvmeConfig { reserve_percent: 5, ..config(40) });
    assert!(report.adopted, "what is allocated already needs no room");
}

#[test]
fn a_store_fills_to_its_last_slot_though_the_volume_is_full() {
    let Some(disk) = SmallDisk::mount("loop") else { return };
    let (mut kit, _) = open(&disk.path(), &config(32));
    // ENOSPC for everybody else from here on.
    let hog = std::fs::write(disk.path().join("hog"), vec![1; 64 << 20]);
    assert!(hog.is_err(), "the volume is full");
    let count = kit.store.usage(STRIDE).1;
    let slots: Vec<u64> = (0..count).map(|seed| kit.put(seed as u8, STRIDE)).collect();
    assert!(slots.iter().enumerate().all(|(seed, slot)| kit.holds(*slot, seed as u8, STRIDE)));
    assert_eq!(kit.store.alloc(STRIDE), None);
    kit.sync();
    assert_eq!(kit.store.stats().breaker_opened, 0);
}

#[test]
fn a_read_only_volume_turns_the_tier_off() {
    let Some(disk) = SmallDisk::mount("loop,ro") else { return };
    let error = NvmeStore::open(&disk.path(), &config(16)).expect_err("read-only");
    assert_eq!(error.reason(), "read_only", "{error}");
}
