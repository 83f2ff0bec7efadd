//! Spillway's engine room: the arena, the index, the control files and the NVMe slots.
//!
//! Two processes meet here without ever calling each other. The sidecar ([`plane::Plane`]) owns the index and the slots; the engine's
//! processes ([`attach::Attachment`]) look up, lease, publish and pin through one control file per incarnation. Everything crosses in
//! shared memory that either side may lose at any instruction; `docs/formats.md` describes the bytes.
//!
//! `unsafe` lives only in modules that allow it by name below.
#![deny(unsafe_code)]

pub mod epoch;
pub mod seqlock;
pub mod sync;
pub mod ticket;

pub mod crash;

// Under loom only the three protocols above are built: loom's atomics cannot lie in shared memory.
#[cfg(not(loom))]
pub mod abi;
#[cfg(not(loom))]
pub mod arena;
#[cfg(not(loom))]
pub mod attach;
#[cfg(not(loom))]
pub mod checksum;
#[cfg(not(loom))]
pub mod clock;
#[cfg(not(loom))]
pub mod control;
#[cfg(not(loom))]
pub mod error;
pub mod grants;
#[cfg(not(loom))]
#[allow(unsafe_code)]
pub mod guard;
#[cfg(not(loom))]
pub mod header;
#[cfg(not(loom))]
pub mod index;
#[cfg(not(loom))]
#[allow(unsafe_code)]
pub mod io;
#[cfg(not(loom))]
pub mod key;
#[cfg(not(loom))]
#[allow(unsafe_code)]
pub mod layout;
#[cfg(not(loom))]
#[allow(unsafe_code)]
pub mod locks;
#[cfg(not(loom))]
#[allow(unsafe_code)]
pub mod map;
#[cfg(not(loom))]
pub mod nvme;
#[cfg(not(loom))]
pub mod plane;
#[cfg(not(loom))]
pub mod ring;
#[cfg(not(loom))]
pub mod use_order;

/// The version of this crate, stated once in the workspace.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
