//! The core's events as frozen classes, one per kind, for `match`.

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyType};
use spillway_engine::key::Key16;
use spillway_engine::plane::Event;

fn bytes_of(py: Python<'_>, key: Key16) -> Py<PyBytes> {
    PyBytes::new(py, &key.to_bytes()).unbind()
}

/// A class per kind with the fields that the kind has, and the union of them as `Event`.
macro_rules! events {
    ($($name:ident { $($field:ident: $type:ty),* })*) => {
        $(
            #[pyclass(frozen, get_all, module = "spillway._core")]
            struct $name { $($field: $type),* }
        )*

        /// Add the classes and the alias `Event`.
        pub fn add_to(module: &Bound<'_, PyModule>) -> PyResult<()> {
            let py = module.py();
            let classes: Vec<Bound<'_, PyType>> = vec![$(py.get_type::<$name>()),*];
            let mut union = classes[0].clone().into_any();
            for class in &classes {
                module.add(class.name()?.to_str()?, class)?;
                union = union.bitor(class)?;
            }
            module.add("Event", union)
        }
    };
}

events! {
    Inserted { key: Py<PyBytes>, class_id: u8, tag: u8 }
    Promote { key: Py<PyBytes>, class_id: u8, tag: u8, deadline_ms: u32 }
    Read { key: Py<PyBytes>, class_id: u8, outcome: u8, took_ns: u64 }
    Written { key: Py<PyBytes>, class_id: u8, outcome: u8 }
    Used { key: Py<PyBytes>, tag: u8, tiers: u8 }
    LeaseWanted { tag: u8, group: u8, count: u64 }
    Freed { class_id: u8, count: u64 }
    EngineAttached { tag: u8, ranks: u32, groups: u32 }
    EngineReady { tag: u8, ranks: u32, groups: u32 }
    EngineDead { tag: u8, leases: u64, tickets: u64 }
    EngineRefused { tag: Option<u8>, reason: u32 }
    Scanned { key: Py<PyBytes>, class_id: u8, generation: u64 }
    ScanDone { chunks: u64, faults: u64 }
    Quarantined { key: Option<Py<PyBytes>>, outcome: u8, tier: u8 }
    NvmeState { state: u32 }
    Adopted { key: Py<PyBytes>, class_id: u8, tiers: u8, last_use: u32 }
}

/// The event as an object of its class.
pub fn event(py: Python<'_>, event: Event) -> PyResult<Py<PyAny>> {
    let bytes = |key| bytes_of(py, key);
    Ok(match event {
        Event::Inserted { key, class, tag } => Py::new(py, Inserted { key: bytes(key), class_id: class, tag })?.into_any(),
        Event::Promote { key, class, tag, deadline_ms } => {
            Py::new(py, Promote { key: bytes(key), class_id: class, tag, deadline_ms })?.into_any()
        }
        Event::Read { key, class, outcome, took_ns } => {
            Py::new(py, Read { key: bytes(key), class_id: class, outcome: outcome as u8, took_ns })?.into_any()
        }
        Event::Written { key, class, outcome } => {
            Py::new(py, Written { key: bytes(key), class_id: class, outcome: outcome as u8 })?.into_any()
        }
        Event::Used { key, tag, tiers } => Py::new(py, Used { key: bytes(key), tag, tiers })?.into_any(),
        Event::LeaseWanted { tag, group, count } => Py::new(py, LeaseWanted { tag, group, count })?.into_any(),
        Event::Freed { class, count } => Py::new(py, Freed { class_id: class, count })?.into_any(),
        Event::EngineAttached { tag, ranks, groups } => Py::new(py, EngineAttached { tag, ranks, groups })?.into_any(),
        Event::EngineReady { tag, ranks, groups } => Py::new(py, EngineReady { tag, ranks, groups })?.into_any(),
        Event::EngineDead { tag, leases, tickets } => Py::new(py, EngineDead { tag, leases, tickets })?.into_any(),
        Event::EngineRefused { tag, reason } => Py::new(py, EngineRefused { tag, reason })?.into_any(),
        Event::Scanned { key, class, generation } => Py::new(py, Scanned { key: bytes(key), class_id: class, generation })?.into_any(),
        Event::ScanDone { chunks, faults } => Py::new(py, ScanDone { chunks, faults })?.into_any(),
        Event::Quarantined { key, outcome, tier } => {
            Py::new(py, Quarantined { key: key.map(bytes), outcome: outcome as u8, tier })?.into_any()
        }
        Event::NvmeState { state } => Py::new(py, NvmeState { state: state as u32 })?.into_any(),
        Event::Adopted { key, class, tiers, last_use } => {
            Py::new(py, Adopted { key: bytes(key), class_id: class, tiers, last_use })?.into_any()
        }
    })
}
