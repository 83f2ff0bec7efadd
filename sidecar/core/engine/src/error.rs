//! Why the core could not open or attach. What can happen while serving is an outcome, never one of these.

use std::path::{Path, PathBuf};

/// What [`crate::plane::Plane::open`] and [`crate::attach::Attachment::new`] fail with.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CoreError {
    /// A file of the pod's volumes could not be made, mapped or locked.
    #[error("{path}: {what} failed: {source}; check that the volume is mounted and writable")]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// The other side speaks an ABI this build does not know.
    #[error("{path}: ABI {seen}, this build works with {oldest} to {want}; restart the older of engine and sidecar with the newer image")]
    Abi {
        /// The file that states it.
        path: PathBuf,
        /// What it states.
        seen: u32,
        /// The oldest that this build works with.
        oldest: u32,
        /// This build's own.
        want: u32,
    },
    /// The sidecar's run folder is missing.
    #[error("{path}: {source}; the sidecar's volumes are not mounted here")]
    Absent {
        /// The folder or file that is missing.
        path: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// Another process writes this index.
    #[error("{path}: held by another daemon; wait until it ends or stop it")]
    Busy {
        /// The lock file.
        path: PathBuf,
    },
    /// Another process of the same incarnation has this role.
    #[error("{path}: rank {rank} is attached by another process; use a new incarnation")]
    RoleTaken {
        /// The control file.
        path: PathBuf,
        /// -1 is the scheduler.
        rank: i32,
    },
    /// An argument or a file's content that cannot be worked with.
    #[error("{what}")]
    Invalid {
        /// Names the object, the value and the bound.
        what: String,
    },
}

impl CoreError {
    /// Tie a kernel error to a file and an action.
    pub fn io(what: &'static str, path: &Path, source: impl Into<std::io::Error>) -> Self {
        Self::Io { what, path: path.to_owned(), source: source.into() }
    }

    /// An argument out of its bounds.
    pub fn invalid(what: impl Into<String>) -> Self {
        Self::Invalid { what: what.into() }
    }
}

/// Shorthand of this crate.
pub type Result<T> = std::result::Result<T, CoreError>;
