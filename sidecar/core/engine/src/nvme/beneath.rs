//! Opening beneath an open folder: no symbolic link is followed anywhere on the way, and nothing outside the folder is reached.
//!
//! `openat2` has the kernel do it (5.6). Where it is missing, or a seccomp profile refuses it, every part of the path is opened beneath the one before
//! it with `O_NOFOLLOW`, which refuses a link just so. A plain open of a whole path is never tried.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, mkdirat, open as open_plainly, openat, openat2, statat};
use rustix::io::{Errno, Result};

const RESOLVE: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS);
/// A folder to look beneath: it need not be readable.
const PASSAGE: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
/// The kernel asks to try again when something was renamed meanwhile. Whoever renames without end gets the slower way instead.
const TRIES: usize = 8;

/// Open `path` beneath `folder`. A link on the way or at its end is `ELOOP`, a path that leaves the folder `EXDEV`.
pub(super) fn open(folder: impl AsFd, path: &Path, flags: OFlags, mode: Mode) -> Result<OwnedFd> {
    let flags = flags | OFlags::CLOEXEC;
    for _ in 0..TRIES {
        match openat2(&folder, path, flags, mode, RESOLVE) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            // EPERM is how older seccomp profiles refuse what they do not know. Where it is the file's own, the steps meet it again.
            Err(Errno::NOSYS | Errno::PERM) => break,
            opened => return opened,
        }
    }
    open_stepwise(folder.as_fd(), path, flags, mode)
}

/// The folder at `path`, made if only it itself is missing. No link is followed on the whole way to it.
pub(super) fn open_or_make_folder(path: &Path) -> Result<OwnedFd> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Err(Errno::INVAL) };
    let parent = open_passage(parent)?;
    match mkdirat(&parent, name, Mode::from_raw_mode(0o777)) {
        // Where nothing may be made the folder may still be there.
        Ok(()) | Err(Errno::EXIST) => open(&parent, Path::new(name), PASSAGE, Mode::empty()),
        Err(refused) => {
            open(&parent, Path::new(name), PASSAGE, Mode::empty()).map_err(|error| if error == Errno::NOENT { refused } else { error })
        }
    }
}

fn open_passage(path: &Path) -> Result<OwnedFd> {
    let (top, rest) = path.strip_prefix("/").map_or((".", path), |rest| ("/", rest));
    let top = open_plainly(top, PASSAGE, Mode::empty())?;
    if rest.as_os_str().is_empty() { Ok(top) } else { open(top, rest, PASSAGE, Mode::empty()) }
}

fn open_stepwise(folder: BorrowedFd<'_>, path: &Path, flags: OFlags, mode: Mode) -> Result<OwnedFd> {
    let mut parts = path.components().filter(|part| *part != Component::CurDir).peekable();
    let mut passage: Option<OwnedFd> = None;
    while let Some(part) = parts.next() {
        let Component::Normal(name) = part else { return Err(Errno::XDEV) };
        let beneath = passage.as_ref().map_or(folder, AsFd::as_fd);
        if parts.peek().is_none() {
            return step(beneath, Path::new(name), flags, mode);
        }
        passage = Some(step(beneath, Path::new(name), PASSAGE, Mode::empty())?);
    }
    Err(Errno::NOENT)
}

/// Open one name. With `O_DIRECTORY` the kernel calls a link no folder, which says too little.
fn step(folder: BorrowedFd<'_>, name: &Path, flags: OFlags, mode: Mode) -> Result<OwnedFd> {
    openat(folder, name, flags | OFlags::NOFOLLOW, mode).map_err(|error| match statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(found) if error == Errno::NOTDIR && FileType::from_raw_mode(found.st_mode) == FileType::Symlink => Errno::LOOP,
        _ => error,
    })
}
