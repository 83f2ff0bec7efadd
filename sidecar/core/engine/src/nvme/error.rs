//! Why a store could not be opened. The tier is then off and says so; nothing else fails.

use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

/// What [`super::NvmeStore::open`] fails with.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NvmeError {
    /// All of the folder's stores are used by other pods.
    #[error("{dir}: all {slots} slots are taken by other pods; raise the pool's slots per node or spread its pods")]
    NoFreeSlot {
        /// The folder.
        dir: PathBuf,
        /// How many were tried.
        slots: u32,
    },
    /// The volume cannot hold the store. Nothing was left behind.
    #[error(
        "{dir}: a store of {} and a reserve of {} do not fit, {} are free; lower the tier's capacity or enlarge the volume",
        Human(*.wanted_bytes), Human(*.reserve_bytes), Human(*.free_bytes)
    )]
    VolumeTooSmall {
        /// The folder.
        dir: PathBuf,
        /// The file's size.
        wanted_bytes: u64,
        /// What must stay free beyond it.
        reserve_bytes: u64,
        /// Free to this user before the attempt.
        free_bytes: u64,
    },
    /// O_DIRECT was required and does not work here.
    #[error("{path}: O_DIRECT does not work here ({why}); set direct to Auto or use another volume")]
    DirectUnavailable {
        /// The file.
        path: PathBuf,
        /// What failed.
        why: String,
    },
    /// A symbolic link lies on the way to a file of the store, wherever it points: whoever may write the volume may put one there.
    #[error("{link}: a symbolic link on the way to {path}, and none is followed, wherever it points; put a folder or file in its place")]
    Link {
        /// The first link on the way, `path` where it is gone again.
        link: PathBuf,
        /// What was to be opened.
        path: PathBuf,
    },
    /// A file or folder of the volume could not be used.
    #[error("{path}: {what} failed: {source}; check that the volume is mounted and writable by uid {}", rustix::process::geteuid().as_raw())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A setting that no store can have.
    #[error("{0}")]
    Invalid(String),
}

/// Bytes as a person reads them, with one decimal.
struct Human(u64);

impl std::fmt::Display for Human {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        const UNITS: [(&str, u32); 4] = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
        match UNITS.iter().find(|(_, shift)| self.0 >> shift > 0) {
            Some((unit, shift)) => write!(f, "{:.1} {unit}", self.0 as f64 / (1u64 << shift) as f64),
            None => write!(f, "{} bytes", self.0),
        }
    }
}

impl NvmeError {
    pub(super) fn io(what: &'static str, path: &Path, source: impl Into<io::Error>) -> Self {
        Self::Io { what, path: path.to_owned(), source: source.into() }
    }

    /// What an open beneath a folder ([`super::beneath`]) failed with.
    pub(super) fn opening(what: &'static str, path: &Path, errno: Errno) -> Self {
        if errno != Errno::LOOP {
            return Self::io(what, path, errno);
        }
        let mut way: Vec<&Path> = path.ancestors().collect();
        way.reverse();
        let link = way.into_iter().find(|part| part.is_symlink()).unwrap_or(path);
        Self::Link { link: link.to_owned(), path: path.to_owned() }
    }

    /// A stable word.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NoFreeSlot { .. } => "no_free_slot",
            Self::VolumeTooSmall { .. } => "volume_too_small",
            Self::DirectUnavailable { .. } => "direct_unavailable",
            Self::Invalid(_) => "invalid_config",
            Self::Link { .. } => "symbolic_link",
            Self::Io { source, .. } => match source.raw_os_error() {
                Some(libc::EROFS) => "read_only",
                Some(libc::EACCES | libc::EPERM) => "not_writable",
                Some(libc::ENOENT) => "absent",
                Some(libc::EOPNOTSUPP) => "cannot_preallocate",
                _ => "io_error",
            },
        }
    }
}
