//! Reports and statistics as Python dicts.

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList};
use spillway_engine::plane::{EngineStats, NvmeReport, Plane, Report, Stats, TierStats};

fn figures<'py>(py: Python<'py>, named: &[(&'static str, u64)]) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    for (name, value) in named {
        dict.set_item(name, value)?;
    }
    Ok(dict)
}

/// `Plane.report()`.
pub fn report<'py>(py: Python<'py>, report: &Report) -> PyResult<Bound<'py, PyDict>> {
    let plain = [
        ("abi", u64::from(spillway_engine::layout::ABI)),
        ("arena_bytes_asked", report.arena_bytes_asked),
        ("arena_bytes", report.arena_bytes),
        ("entries", report.entries),
        ("adopted_chunks", report.adopted_chunks),
        ("repaired_entries", report.repaired_entries),
        ("quarantined_slots", report.quarantined_slots),
        ("requeued_slots", report.requeued_slots),
        ("engines_kept", report.engines_kept),
    ];
    let dict = figures(py, &plain)?;
    dict.set_item("adopted", report.adopted)?;
    dict.set_item("reason", &report.reason)?;
    dict.set_item("nvme", nvme_report(py, &report.nvme)?)?;
    Ok(dict)
}

fn nvme_report<'py>(py: Python<'py>, report: &NvmeReport) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    dict.set_item("state", report.state as u32)?;
    dict.set_item("reason", &report.reason)?;
    dict.set_item("message", &report.message)?;
    dict.set_item("slot_number", report.slot_number)?;
    dict.set_item("direct", report.direct)?;
    dict.set_item("adopted", report.adopted)?;
    dict.set_item("rung", report.rung)?;
    dict.set_item("store_id", PyBytes::new(py, &report.store_id))?;
    dict.set_item("capacity_bytes", report.capacity_bytes)?;
    Ok(dict)
}

/// `Plane.stats()`.
pub fn stats<'py>(py: Python<'py>, plane: &Plane) -> PyResult<Bound<'py, PyDict>> {
    let stats: Stats = plane.stats();
    let dict = figures(py, &stats.plain)?;
    dict.set_item("hop_bytes", figures(py, &stats.hop_bytes)?)?;
    dict.set_item("overhead_bytes", figures(py, &stats.overhead_bytes)?)?;
    dict.set_item("quarantined", figures(py, &stats.quarantined)?)?;
    dict.set_item("invalid_ops", figures(py, &stats.invalid_ops)?)?;
    dict.set_item("oldest_ticket_seconds", stats.oldest_ticket_seconds)?;
    dict.set_item("arena_poisoned", stats.arena_poisoned)?;
    dict.set_item("fault_error", stats.fault_error.as_deref())?;
    let tiers = PyDict::new(py);
    let classes = plane.classes();
    let sum = |slots: &dyn Fn(u8) -> (u64, u64)| {
        classes.iter().map(|(class, _)| slots(*class)).fold((0, 0), |sum, (free, total)| (sum.0 + free, sum.1 + total))
    };
    tiers.set_item("dram", tier(py, &stats.dram, sum(&|class| plane.dram_slots(class)))?)?;
    tiers.set_item("nvme", tier(py, &stats.nvme, sum(&|class| plane.nvme_slots(class)))?)?;
    dict.set_item("tiers", tiers)?;
    dict.set_item("nvme", nvme_now(py, plane)?)?;
    let engines: Vec<_> = stats.engines.iter().map(|found| engine(py, found)).collect::<PyResult<_>>()?;
    dict.set_item("engines", PyList::new(py, engines)?)?;
    Ok(dict)
}

fn tier<'py>(py: Python<'py>, found: &TierStats, slots: (u64, u64)) -> PyResult<Bound<'py, PyDict>> {
    let plain = [
        ("chunks", found.chunks),
        ("bytes", found.bytes),
        ("capacity_bytes", found.capacity_bytes),
        ("slots_free", slots.0),
        ("slots_total", slots.1),
    ];
    figures(py, &plain)
}

fn nvme_now<'py>(py: Python<'py>, plane: &Plane) -> PyResult<Bound<'py, PyDict>> {
    let (state, reason) = plane.nvme_state();
    let store = plane.nvme_stats();
    let dict = figures(py, &[("late_ios", store.late), ("breaker_openings", store.breaker_opened)])?;
    dict.set_item("state", state as u32)?;
    dict.set_item("reason", reason)?;
    dict.set_item("direct", plane.report().nvme.direct)?;
    dict.set_item("rung", plane.report().nvme.rung)?;
    dict.set_item("scan_done", plane.is_scan_done())?;
    Ok(dict)
}

fn engine<'py>(py: Python<'py>, found: &EngineStats) -> PyResult<Bound<'py, PyDict>> {
    let plain = [
        ("tag", u64::from(found.tag)),
        ("ranks", found.ranks as u64),
        ("groups", found.groups as u64),
        ("leases", found.leases as u64),
        ("tickets", found.tickets as u64),
        ("ring_depth", found.ring_depth),
        ("step_epoch", found.step_epoch),
    ];
    let dict = figures(py, &plain)?;
    dict.set_item("incarnation", PyBytes::new(py, &found.incarnation))?;
    dict.set_item("state", if found.refused { spillway_engine::control::STATE_REFUSED } else { spillway_engine::control::STATE_ACCEPTED })?;
    dict.set_item("ready", found.ready)?;
    dict.set_item("alive", found.alive)?;
    dict.set_item("fingerprint", found.fingerprint.map(|fingerprint| PyBytes::new(py, &fingerprint)))?;
    dict.set_item("counters", figures(py, &found.counters)?)?;
    Ok(dict)
}
