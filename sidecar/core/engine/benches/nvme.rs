//! The NVMe store's best rung, digests of what it reads included, beside fio on the same file, block size and depth, in interleaved pairs: fio's io_uring
//! is the bound of the tier, its psync that of threads. And the header scan beside fio's 4 KiB random reads. Targets beside io_uring: reads >= 95 %,
//! writes >= 90 %, scan >= 80 %.
//!
//! `cargo bench --bench nvme [-- FOLDER [PAIRS [THREADS]]]`; needs fio on PATH and 1.1 GiB in the folder, which must be on the disk to measure.
#![allow(clippy::print_stdout, clippy::unwrap_used)]

use std::os::fd::AsFd;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use spillway_engine::map::SharedMap;
use spillway_engine::nvme::{Completion, Direct, NvmeConfig, NvmeStore, RungKind, Urgency};

const MIB: u64 = 1 << 20;
const DATA_BYTES: u64 = 1024 * MIB;

struct Bench {
    store: NvmeStore,
    /// On tmpfs, as the arena is.
    buffers: SharedMap,
    threads: usize,
}

impl Bench {
    /// Move every slot once at a depth of the number of threads; GB/s.
    fn run(&mut self, slots: &[u64], stride: u64, is_write: bool) -> f64 {
        let started = Instant::now();
        let (mut next, mut in_flight, mut done) = (0, 0, Vec::new());
        let mut free: Vec<usize> = (0..self.threads).collect();
        while next < slots.len() || in_flight > 0 {
            while next < slots.len()
                && let Some(place) = free.pop()
            {
                let buffer = self.buffers.ptr_at(place * stride as usize, stride as usize);
                match is_write {
                    true => self.store.submit_write(place as u64, slots[next], buffer, stride as usize),
                    false => self.store.submit_read(Urgency::Demand, place as u64, slots[next], buffer, stride as usize),
                }
                (next, in_flight) = (next + 1, in_flight + 1);
            }
            self.wait();
            self.store.completions(&mut done);
            for completion in done.drain(..) {
                match completion {
                    Completion::Read { token, result: Ok(_) } | Completion::Written { token, result: Ok(()) } => {
                        free.push(token as usize);
                        in_flight -= 1;
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
        DATA_BYTES as f64 / started.elapsed().as_secs_f64() / 1e9
    }

    fn wait(&self) {
        use rustix::event::{PollFd, PollFlags, poll};
        poll(&mut [PollFd::new(&self.store.event_fd(), PollFlags::IN)], None).unwrap();
    }
}

fn open(folder: &Path, threads: usize) -> NvmeStore {
    let config = NvmeConfig {
        capacity_bytes: DATA_BYTES + MIB,
        slots: 1,
        io_threads: threads,
        direct: Direct::Required,
        best_rung: RungKind::RegisteredUring,
        deadline: Duration::from_secs(30),
        reserve_percent: 0,
    };
    NvmeStore::open(folder, &config).unwrap().0
}

/// fio's figure for one field of its terse answer.
fn fio(folder: &Path, rw: &str, engine: &str, block: u64, depth: usize, field: usize, extra: &[&str]) -> f64 {
    let output = Command::new("fio")
        .args(["--name=peer", "--direct=1", "--minimal", "--randrepeat=0", &format!("--rw={rw}"), &format!("--bs={block}")])
        .args([
            &format!("--filename={}", folder.join("slot-0/chunks").display()),
            &format!("--offset={MIB}"),
            &format!("--size={DATA_BYTES}"),
        ])
        .args([&format!("--ioengine={engine}"), &format!("--iodepth={depth}")])
        .args(extra)
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.split(';').nth(field).and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("fio said {text}"))
}

/// Columns of fio's terse format, version 3: KiB/s and IOPS of reads, KiB/s of writes.
const READ_KIB: usize = 6;
const READ_IOPS: usize = 7;
const WRITE_KIB: usize = 47;

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn compare(what: &str, unit: &str, pairs: usize, mut ours: impl FnMut() -> f64, mut peer: impl FnMut() -> f64) {
    let (mut our, mut their, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for pair in 0..pairs {
        // The order alternates: caches and throttles of the machine below favour neither.
        let (one, other) = if pair % 2 == 0 {
            let one = ours();
            (one, peer())
        } else {
            let other = peer();
            (ours(), other)
        };
        our.push(one);
        their.push(other);
        ratios.push(one / other);
    }
    let (one, other, ratio) = (median(&mut our), median(&mut their), median(&mut ratios));
    let spread = (ratios[0], ratios[pairs - 1]);
    println!("{what}: {one:.2} {unit}, fio {other:.2} {unit}, ratio {ratio:.2} ({:.2}..{:.2}), {pairs} pairs", spread.0, spread.1);
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let parent = arguments.first().map_or(env!("CARGO_TARGET_TMPDIR"), String::as_str);
    let pairs = arguments.get(1).map_or(3, |text| text.parse().unwrap());
    let threads = arguments.get(2).map_or(8, |text| text.parse().unwrap());
    let folder = tempfile::tempdir_in(parent).unwrap();
    let memory = tempfile::tempfile_in("/dev/shm").unwrap();
    let bytes = threads as u64 * 4 * MIB;
    memory.set_len(bytes).unwrap();
    for stride in [MIB, 4 * MIB] {
        let buffers = SharedMap::new(memory.as_fd(), bytes as usize, true).unwrap();
        buffers.write(0, &vec![0x5A; bytes as usize]);
        let mut bench = Bench { store: open(folder.path(), threads), buffers, threads };
        let slots: Vec<u64> = std::iter::from_fn(|| bench.store.alloc(stride)).collect();
        assert_eq!(slots.len() as u64, DATA_BYTES / stride);
        // Once untimed: the first write of a preallocated range pays for its conversion on every path.
        bench.run(&slots, stride, true);
        let mib = stride / MIB;
        let path = folder.path();
        let share = DATA_BYTES / threads as u64;
        let each = [format!("--numjobs={threads}"), format!("--offset_increment={share}"), format!("--size={share}")];
        let each: Vec<&str> = ["--thread", "--group_reporting"].into_iter().chain(each.iter().map(String::as_str)).collect();
        for (engine, depth, extra) in [("io_uring", threads, &[][..]), ("psync", 1, &each)] {
            let peer = |rw: &str, field| fio(path, rw, engine, stride, depth, field, extra) * 1024.0 / 1e9;
            let title = |verb: &str| format!("{verb} {mib} MiB beside {engine}");
            compare(&title("read"), "GB/s", pairs, || bench.run(&slots, stride, false), || peer("read", READ_KIB));
            compare(&title("write"), "GB/s", pairs, || bench.run(&slots, stride, true), || peer("write", WRITE_KIB));
        }
        std::fs::remove_dir_all(folder.path().join("slot-0")).unwrap();
    }
    scan(folder.path(), threads, pairs);
}

/// Headers read per second by the scan; the smallest slots, so that their number is the largest.
fn scan(folder: &Path, threads: usize, pairs: usize) {
    let stride = 64 << 10;
    let mut store = open(folder, threads);
    let page = spillway_engine::io::PageBuffer::new(16);
    let slots: Vec<u64> = std::iter::from_fn(|| store.alloc(stride)).collect();
    // All of them: what was never written is answered without a device.
    for (token, slot) in slots.iter().enumerate() {
        store.submit_write(token as u64, *slot, page.as_ptr(), page.len());
    }
    store.sync(Duration::from_secs(60));
    drop(store);
    let ours = || {
        let mut store = open(folder, threads);
        let started = Instant::now();
        store.start_scan();
        let mut done = Vec::new();
        while !done.iter().any(|completion| matches!(completion, Completion::ScanDone)) {
            use rustix::event::{PollFd, PollFlags, poll};
            poll(&mut [PollFd::new(&store.event_fd(), PollFlags::IN)], None).unwrap();
            store.completions(&mut done);
        }
        slots.len() as f64 / started.elapsed().as_secs_f64() / 1000.0
    };
    let limits = ["--runtime=2", "--time_based"];
    compare("scan", "k headers/s", pairs, ours, || fio(folder, "randread", "io_uring", 4096, 64, READ_IOPS, &limits) / 1000.0);
}
