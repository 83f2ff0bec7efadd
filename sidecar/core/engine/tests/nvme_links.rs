//! Whoever may write the volume puts a link wherever there is room for one: none is followed, whatever the kernel offers for that.

mod nvme_kit;

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use nvme_kit::*;
use spillway_engine::nvme::{NvmeError, NvmeStore};
use tempfile::TempDir;

/// Where a link stands, below a folder that holds the volume `mnt/volume`.
const PLACES: [&str; 5] = ["mnt", "mnt/volume", "mnt/volume/slot-0", "mnt/volume/slot-0/lock", "mnt/volume/slot-0/chunks"];

/// What the kernel answers to openat2; None: it works.
const ANSWERS: [Option<i32>; 3] = [None, Some(libc::ENOSYS), Some(libc::EPERM)];

/// A whole store in `theirs`, and a link to its part in `place` of `mine`. Returns the link.
fn put_link(mine: &Path, theirs: &Path, place: &str) -> PathBuf {
    std::fs::create_dir_all(theirs.join("mnt/volume")).expect("a new folder");
    drop(open(&theirs.join("mnt/volume"), &config(4)));
    let link = mine.join(place);
    std::fs::create_dir_all(link.parent().expect("a folder above it")).expect("a new folder");
    symlink(theirs.join(place), &link).expect("nothing is there");
    link
}

fn folders() -> (TempDir, TempDir) {
    (disk_folder(), disk_folder())
}

#[test]
fn a_link_is_refused_at_each_place_and_named() {
    for (answer, place) in ANSWERS.into_iter().flat_map(|answer| PLACES.map(|place| (answer, place))) {
        let (mine, theirs) = folders();
        let link = put_link(mine.path(), theirs.path(), place);
        let store = theirs.path().join("mnt/volume/slot-0/chunks");
        let before = std::fs::metadata(&store).expect("a store").modified().expect("a time");
        let refused = answering(answer, || NvmeStore::open(&mine.path().join("mnt/volume"), &config(4)).map(|_| ()));
        let error = refused.expect_err("a link");
        assert!(matches!(error, NvmeError::Link { .. }), "{place}, {answer:?}: {error}");
        assert_eq!(error.reason(), "symbolic_link");
        assert!(error.to_string().starts_with(&format!("{}: a symbolic link", link.display())), "{place}, {answer:?}: {error}");
        assert_eq!(
            std::fs::metadata(&store).expect("a store").modified().expect("a time"),
            before,
            "{place}: what it points to is as it was"
        );
    }
}

#[test]
fn a_link_in_the_place_of_an_unfinished_store_goes_and_what_it_points_to_stays() {
    for answer in ANSWERS {
        let (mine, theirs) = folders();
        let precious = theirs.path().join("precious");
        std::fs::write(&precious, "all of it").expect("a new file");
        std::fs::create_dir(mine.path().join("slot-0")).expect("a new folder");
        symlink(&precious, mine.path().join("slot-0/chunks.new")).expect("nothing is there");
        answering(answer, || NvmeStore::open(mine.path(), &config(4)).map(|_| ())).expect("a store");
        assert_eq!(std::fs::read(&precious).expect("the file"), b"all of it");
    }
}

#[test]
fn a_store_is_made_and_found_again_without_openat2() {
    for answer in ANSWERS {
        let dir = disk_folder();
        let volume = dir.path().join("volume");
        let opened = || NvmeStore::open(&volume, &config(16)).expect("a store").1;
        let (first, second) = answering(answer, || (opened(), opened()));
        assert!(!first.adopted && second.adopted && first.store_id == second.store_id, "{answer:?}");
        assert_eq!(first.direct, second.direct);
    }
}

#[test]
fn a_path_of_more_than_one_missing_folder_is_not_made() {
    let dir = disk_folder();
    let error = NvmeStore::open(&dir.path().join("missing/volume"), &config(4)).expect_err("no volume there");
    assert_eq!(error.reason(), "absent", "{error}");
}

/// Run on a thread for which the kernel answers openat2 with `errno`, as a seccomp profile has it do.
fn answering<T: Send>(errno: Option<i32>, run: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            if let Some(errno) = errno {
                refuse_openat2(errno);
            }
            run()
        });
        thread.join().expect("no panic")
    })
}

fn refuse_openat2(errno: i32) {
    let statement = |code: u32, jt, jf, k| libc::sock_filter { code: code as u16, jt, jf, k };
    let mut filter = [
        statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0), // the system call's number
        statement(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, libc::SYS_openat2 as u32),
        statement(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ERRNO | errno as u32),
        statement(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: the call reads numbers only, and binds this thread and those it starts.
    let privileges = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    // SAFETY: `program` and the filter that it points to live until the call has copied them.
    let filtered = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) };
    assert_eq!((privileges, filtered), (0, 0), "{}", std::io::Error::last_os_error());
    let here =
        rustix::fs::openat2(rustix::fs::CWD, ".", rustix::fs::OFlags::RDONLY, rustix::fs::Mode::empty(), rustix::fs::ResolveFlags::empty());
    assert_eq!(here.expect_err("refused").raw_os_error(), errno);
}
