//! Spillway's engine room: the arena, the index, the control files and the NVMe slots.
//!
//! Two processes meet here without ever calling each other. The sidecar ([`plane::Plane`]) owns the index and the slots; the engine's
//! processes ([`attach::Attachment`]) look up, lease, publish and pin through one control file per incarnation. Everything crosses in
//! shared memory that either side may lose at any instruction; `docs/formats.md` describes the bytes.
//!
//! `unsafe` lives only in modules that allow it by name below.
#![deny(unsafe_code)]

pub mod checksum;
#[allow(unsafe_code)]
pub mod guard;
pub mod header;
#[allow(unsafe_code)]
pub mod nvme;

/// The version of this crate, stated once in the workspace.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
