//! The I/O ladder: every rung moves the same bytes, and what the kernel refuses costs a rung and never the tier.

mod nvme_kit;

use std::thread;

use nvme_kit::*;
use spillway_engine::io::PageBuffer;
use spillway_engine::map::SharedMap;
use spillway_engine::nvme::{Completion, Direct, IoFault, NvmeConfig, RungKind, Urgency};

const STRIDE_PAGES: usize = STRIDE as usize / PAGE;

/// System calls that a container's seccomp profile refuses.
fn refuse(calls: &[libc::c_long]) {
    const DENY: u32 = 0x0005_0000 | libc::EPERM as u32;
    const ALLOW: u32 = 0x7fff_0000;
    let statement = |code: u32, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf: 0, k };
    let mut program = vec![statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0)];
    for call in calls {
        program.push(libc::sock_filter { code: (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16, jt: 0, jf: 1, k: *call as u32 });
        program.push(statement(libc::BPF_RET | libc::BPF_K, DENY));
    }
    program.push(statement(libc::BPF_RET | libc::BPF_K, ALLOW));
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: plain arguments.
    assert_eq!(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }, 0);
    // SAFETY: the program outlives the call, which copies it; it holds for this thread and those that it starts.
    assert_eq!(unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const filter) }, 0);
}

/// Open, write, read and scan where these system calls are refused; the rung, and the rungs that were refused.
fn served_without(calls: &'static [libc::c_long], config: NvmeConfig) -> (RungKind, Vec<(RungKind, String)>) {
    let serve = move || {
        refuse(calls);
        let dir = disk_folder();
        let (mut kit, report) = open(dir.path(), &config);
        assert!(report.direct || config.direct == Direct::Off, "{report:?}");
        let slots: Vec<u64> = (0..100).map(|seed| kit.put(seed, STRIDE)).collect();
        for (seed, slot) in slots.iter().enumerate() {
            assert!(kit.holds(*slot, seed as u8, STRIDE));
        }
        let refusals = kit.store.refusals().into_iter().map(|refusal| (refusal.rung, refusal.why)).collect();
        let rung = kit.store.rung();
        kit.sync();
        drop(kit);
        let (mut kit, _) = open(dir.path(), &config);
        assert_eq!(kit.scan(), (slots, Vec::new()));
        (rung, refusals)
    };
    thread::spawn(serve).join().expect("a store that serves")
}

fn names(refusals: &[(RungKind, String)]) -> Vec<RungKind> {
    refusals.iter().map(|(rung, _)| *rung).collect()
}

#[test]
fn the_best_rung_needs_no_excuse() {
    let (rung, refusals) = served_without(&[], config(65));
    assert_eq!((rung, refusals), (RungKind::RegisteredUring, Vec::new()));
}

#[test]
fn without_registration_the_ring_stays() {
    let (rung, refusals) = served_without(&[libc::SYS_io_uring_register], config(65));
    assert_eq!((rung, names(&refusals)), (RungKind::Uring, vec![RungKind::RegisteredUring]));
    assert!(refusals[0].1.contains("not permitted"), "{refusals:?}");
}

#[test]
fn without_io_uring_threads_serve_and_say_why() {
    let (rung, refusals) = served_without(&[libc::SYS_io_uring_setup], config(65));
    assert_eq!((rung, names(&refusals)), (RungKind::Threads, vec![RungKind::RegisteredUring, RungKind::Uring]));
    assert!(refusals.iter().all(|(_, why)| why.contains("io_uring_setup") && why.contains("not permitted")), "{refusals:?}");
}

#[test]
fn a_ring_that_cannot_be_entered_is_refused_at_once() {
    let (rung, refusals) = served_without(&[libc::SYS_io_uring_enter], config(65));
    assert_eq!((rung, names(&refusals)), (RungKind::Threads, vec![RungKind::RegisteredUring, RungKind::Uring]));
}

#[test]
fn the_page_cache_is_for_threads() {
    let (rung, refusals) = served_without(&[], NvmeConfig { direct: Direct::Off, ..config(65) });
    assert_eq!((rung, names(&refusals)), (RungKind::Threads, vec![RungKind::RegisteredUring, RungKind::Uring]));
}

#[test]
fn a_rung_can_be_switched_off() {
    let (rung, refusals) = served_without(&[], NvmeConfig { best_rung: RungKind::Threads, ..config(65) });
    assert_eq!(rung, RungKind::Threads);
    assert!(refusals.iter().all(|(_, why)| why == "switched off"), "{refusals:?}");
}

/// An arena of its own: memory that the ring registers, and that an engine can truncate.
struct Memory {
    file: std::fs::File,
    map: SharedMap,
}

fn memory(bytes: usize) -> Memory {
    let file = tempfile::tempfile_in("/dev/shm").expect("a tmpfs at /dev/shm");
    file.set_len(bytes as u64).expect("room");
    let map = SharedMap::new(std::os::fd::AsFd::as_fd(&file), bytes, true).expect("a mapping");
    Memory { file, map }
}

/// Write and read back every slot of some memory at full depth.
fn round_trip(kit: &mut Kit, memory: &Memory, count: usize) {
    let stride = STRIDE as usize;
    let place = |at: usize| memory.map.ptr_at(at * stride, stride);
    let slots: Vec<u64> = (0..count).map(|_| kit.store.alloc(STRIDE).expect("a free slot")).collect();
    for (at, slot) in slots.iter().enumerate() {
        memory.map.write(at * stride, &vec![at as u8 + 1; stride]);
        kit.store.submit_write(at as u64, *slot, place(at), stride);
    }
    (0..count as u64).for_each(|at| kit.written(at).expect("a good device"));
    memory.map.zero(0, count * stride);
    for (at, slot) in slots.iter().enumerate() {
        // Somewhere else than it was written from.
        kit.store.submit_read(Urgency::Promotion, at as u64, *slot, place(count - 1 - at), stride);
    }
    for at in 0..count as u64 {
        let digest = kit.wait("a read", |completion| match completion {
            Completion::Read { token, result } if *token == at => Some(result.expect("a good device")),
            _ => None,
        });
        assert_eq!(digest, spillway_engine::checksum::payload(&vec![at as u8 + 1; stride - PAGE]), "slot {at}");
    }
    let mut seen = vec![0; stride];
    for at in 0..count {
        memory.map.read((count - 1 - at) * stride, &mut seen);
        assert!(seen.iter().all(|byte| *byte == at as u8 + 1), "slot {at}");
    }
    slots.into_iter().for_each(|slot| kit.store.free(slot));
}

#[test]
fn registered_memory_grows_while_it_is_used() {
    let dir = disk_folder();
    let (mut kit, _) = open(dir.path(), &config(65));
    let memory = memory(128 << 20);
    for backed_mib in [0, 64, 100, 128] {
        kit.store.cover(memory.map.as_ptr(), backed_mib << 20);
        round_trip(&mut kit, &memory, 100);
    }
    assert_eq!((kit.store.rung(), kit.store.refusals()), (RungKind::RegisteredUring, Vec::new()));
    // The store before the memory, as in the plane.
    drop(kit);
}

#[test]
fn memory_that_cannot_be_registered_costs_the_registration_only() {
    let dir = disk_folder();
    let (mut kit, _) = open(dir.path(), &config(65));
    let memory = memory(64 << 20);
    // Behind its end nothing is mapped: the kernel refuses to pin it.
    memory.file.set_len(32 << 20).expect("a truncation");
    kit.store.cover(memory.map.as_ptr(), 64 << 20);
    round_trip(&mut kit, &memory, 100);
    assert_eq!(kit.store.rung(), RungKind::Uring);
    let refusals = kit.store.refusals();
    assert!(refusals.len() == 1 && refusals[0].why.contains("0 MiB of 64 MiB done"), "{refusals:?}");
}

/// What SIGBUS is to a thread is EFAULT to the ring, and neither the device nor the other I/Os have anything to do with it.
#[test]
fn truncated_memory_fails_its_own_reads_only() {
    let dir = disk_folder();
    let (mut kit, _) = open(dir.path(), &config(65));
    let slot = kit.put(1, STRIDE);
    let memory = memory(64 << 20);
    memory.file.set_len(STRIDE).expect("a truncation");
    kit.store.submit_read(Urgency::Demand, 1001, slot, memory.map.ptr_at(8 * STRIDE as usize, STRIDE as usize), STRIDE as usize);
    kit.store.submit_read(Urgency::Demand, 1002, slot, memory.map.ptr_at(0, STRIDE as usize), STRIDE as usize);
    assert_eq!(kit.arrived(1001), Err(IoFault::Memory));
    kit.arrived(1002).expect("memory that is there");
    assert_eq!(kit.store.stats().breaker_opened, 0);
}

#[test]
fn memory_that_is_gone_fails_a_write_too() {
    let dir = disk_folder();
    let (mut kit, _) = open(dir.path(), &config(65));
    kit.put(1, STRIDE);
    let slot = kit.store.alloc(STRIDE).expect("a free slot");
    // The first page of the address space is never mapped.
    kit.store.submit_write(9, slot, std::ptr::without_provenance(PAGE), STRIDE as usize);
    assert_eq!(kit.written(9), Err(IoFault::Memory));
    assert_eq!(kit.store.stats().breaker_opened, 0);
}

#[test]
fn dropping_the_store_waits_for_the_ring() {
    let dir = disk_folder();
    let (mut kit, _) = open(dir.path(), &config(65));
    let slots: Vec<u64> = (0..20).map(|seed| kit.put(seed, STRIDE)).collect();
    let mut buffers: Vec<PageBuffer> = slots.iter().map(|_| PageBuffer::new(STRIDE_PAGES)).collect();
    for (slot, buffer) in slots.iter().zip(&mut buffers) {
        kit.submit_read(*slot, buffer);
    }
    drop(kit);
    // What had begun is whole, what had not was never touched; a buffer in between would still be the kernel's.
    for ((seed, slot), buffer) in slots.iter().enumerate().zip(&buffers) {
        let whole = chunk(seed as u8, STRIDE, *slot, seed as u64);
        assert!(same(buffer, &whole) || same(buffer, &PageBuffer::new(STRIDE_PAGES)), "slot {seed}");
    }
}
