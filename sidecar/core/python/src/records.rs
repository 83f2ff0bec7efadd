//! Reports, statistics and room as frozen classes.

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};
use spillway_engine::control::{STATE_ACCEPTED, STATE_REFUSED};
use spillway_engine::plane;

type Figures = Py<PyDict>;

fn figures(py: Python<'_>, named: &[(&'static str, u64)]) -> PyResult<Figures> {
    let dict = PyDict::new(py);
    for (name, value) in named {
        dict.set_item(name, value)?;
    }
    Ok(dict.unbind())
}

/// `Plane.report()`.
#[pyclass(frozen, get_all, module = "spillway._core")]
pub struct Report {
    abi: u32,
    adopted: bool,
    reason: String,
    arena_bytes_asked: u64,
    arena_bytes: u64,
    entries: u64,
    adopted_chunks: u64,
    repaired_entries: u64,
    quarantined_slots: u64,
    requeued_slots: u64,
    engines_kept: u64,
    nvme: Py<NvmeReport>,
}

/// The NVMe tier as open found it.
#[pyclass(frozen, get_all, module = "spillway._core")]
pub struct NvmeReport {
    state: u32,
    reason: String,
    message: String,
    slot_number: u32,
    direct: bool,
    adopted: bool,
    rung: &'static str,
    store_id: Py<PyBytes>,
    capacity_bytes: u64,
}

/// `Plane.stats()`.
#[pyclass(frozen, get_all, module = "spillway._core")]
pub struct Stats {
    hop_bytes: Figures,
    overhead_bytes: Figures,
    tiers: Py<PyDict>,
    quarantined: Figures,
    invalid_ops: Figures,
    index_full: u64,
    promotions_waiting: u64,
    promotions_joined: u64,
    promotions_declined: u64,
    index_displaced: u64,
    panics_contained: u64,
    steps_expelled: u64,
    engines_expelled: u64,
    duplicates: u64,
    io_errors: u64,
    leases_out: u64,
    open_tickets: u64,
    oldest_ticket_seconds: f64,
    pinned_slots: u64,
    recycling_slots: u64,
    taken_slots: u64,
    quarantined_slots: u64,
    reads_in_flight: u64,
    writes_in_flight: u64,
    faulted_bytes: u64,
    entries: u64,
    arena_poisoned: bool,
    fault_error: Option<String>,
    nvme: Py<NvmeStats>,
    engines: Vec<Py<EngineStats>>,
}

/// One tier's figures.
#[pyclass(frozen, get_all, module = "spillway._core")]
pub struct TierStats {
    chunks: u64,
    bytes: u64,
    capacity_bytes: u64,
}

/// The NVMe tier now.
#[pyclass(frozen, get_all, module = "spillway._core")]
pub struct NvmeStats {
    state: u32,
    reason: String,
    direct: bool,
    rung: &'static str,
    rung_refusals: Py<PyDict>,
    scan_done: bool,
    late_ios: u64,
    breaker_openings: u64,
}

/// One incarnation's figures.
#[pyclass(frozen, get_all, module = "spillway._core")]
pub struct EngineStats {
    tag: u8,
    incarnation: Py<PyBytes>,
    state: u32,
    ranks: usize,
    groups: usize,
    ready: bool,
    alive: bool,
    leases: usize,
    tickets: usize,
    ring_depth: u64,
    step_epoch: u64,
    fingerprint: Option<Py<PyBytes>>,
    counters: Figures,
}

/// What a slot class has and could still draw, in both tiers.
#[pyclass(frozen, get_all, module = "spillway._core")]
pub struct ClassRoom {
    class_id: u8,
    stride_bytes: u64,
    dram_free: u64,
    dram_total: u64,
    dram_to_come: u64,
    nvme_free: u64,
    nvme_total: u64,
}

/// One group of an engine that can be granted to.
#[pyclass(frozen, get_all, module = "spillway._core")]
pub struct LeaseAccount {
    tag: u8,
    group: usize,
    class_id: u8,
    idle: u64,
    leased: u64,
}

/// Add the classes.
pub fn add_to(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<Report>()?;
    module.add_class::<NvmeReport>()?;
    module.add_class::<Stats>()?;
    module.add_class::<TierStats>()?;
    module.add_class::<NvmeStats>()?;
    module.add_class::<EngineStats>()?;
    module.add_class::<ClassRoom>()?;
    module.add_class::<LeaseAccount>()
}

pub fn report(py: Python<'_>, report: &plane::Report) -> PyResult<Report> {
    Ok(Report {
        abi: spillway_engine::layout::ABI,
        adopted: report.adopted,
        reason: report.reason.clone(),
        arena_bytes_asked: report.arena_bytes_asked,
        arena_bytes: report.arena_bytes,
        entries: report.entries,
        adopted_chunks: report.adopted_chunks,
        repaired_entries: report.repaired_entries,
        quarantined_slots: report.quarantined_slots,
        requeued_slots: report.requeued_slots,
        engines_kept: report.engines_kept,
        nvme: Py::new(py, nvme_report(py, &report.nvme))?,
    })
}

fn nvme_report(py: Python<'_>, report: &plane::NvmeReport) -> NvmeReport {
    NvmeReport {
        state: report.state as u32,
        reason: report.reason.clone(),
        message: report.message.clone(),
        slot_number: report.slot_number,
        direct: report.direct,
        adopted: report.adopted,
        rung: report.rung,
        store_id: PyBytes::new(py, &report.store_id).unbind(),
        capacity_bytes: report.capacity_bytes,
    }
}

pub fn stats(py: Python<'_>, plane: &plane::Plane) -> PyResult<Stats> {
    let stats = plane.stats();
    let classes = plane.classes();
    let tiers = PyDict::new(py);
    tiers.set_item("dram", tier(py, &stats.dram)?)?;
    tiers.set_item("nvme", tier(py, &stats.nvme)?)?;
    Ok(Stats {
        hop_bytes: figures(py, &stats.hop_bytes)?,
        overhead_bytes: figures(py, &stats.overhead_bytes)?,
        tiers: tiers.unbind(),
        quarantined: figures(py, &stats.quarantined)?,
        invalid_ops: figures(py, &stats.invalid_ops)?,
        index_full: stats.index_full,
        promotions_waiting: stats.promotions_waiting,
        promotions_joined: stats.promotions_joined,
        promotions_declined: stats.promotions_declined,
        index_displaced: stats.index_displaced,
        panics_contained: stats.panics_contained,
        steps_expelled: stats.steps_expelled,
        engines_expelled: stats.engines_expelled,
        duplicates: stats.duplicates,
        io_errors: stats.io_errors,
        leases_out: stats.leases_out,
        open_tickets: stats.open_tickets,
        oldest_ticket_seconds: stats.oldest_ticket_seconds,
        pinned_slots: stats.pinned_slots,
        recycling_slots: stats.recycling_slots,
        taken_slots: classes.iter().map(|(class, _)| plane.dram_slots_taken(*class)).sum(),
        quarantined_slots: stats.quarantined_slots,
        reads_in_flight: stats.reads_in_flight,
        writes_in_flight: stats.writes_in_flight,
        faulted_bytes: stats.faulted_bytes,
        entries: stats.entries,
        arena_poisoned: stats.arena_poisoned,
        fault_error: stats.fault_error.clone(),
        nvme: Py::new(py, nvme_now(py, plane)?)?,
        engines: stats.engines.iter().map(|found| Py::new(py, engine(py, found)?)).collect::<PyResult<_>>()?,
    })
}

fn tier(py: Python<'_>, found: &plane::TierStats) -> PyResult<Py<TierStats>> {
    Py::new(py, TierStats { chunks: found.chunks, bytes: found.bytes, capacity_bytes: found.capacity_bytes })
}

fn nvme_now(py: Python<'_>, plane: &plane::Plane) -> PyResult<NvmeStats> {
    let (state, reason) = plane.nvme_state();
    let store = plane.nvme_stats();
    let (rung, refusals) = plane.nvme_rung().unwrap_or_default();
    let rung_refusals = PyDict::new(py);
    for refusal in refusals {
        rung_refusals.set_item(refusal.rung.name(), refusal.why)?;
    }
    Ok(NvmeStats {
        state: state as u32,
        reason: reason.to_owned(),
        direct: plane.report().nvme.direct,
        rung,
        rung_refusals: rung_refusals.unbind(),
        scan_done: plane.is_scan_done(),
        late_ios: store.late,
        breaker_openings: store.breaker_opened,
    })
}

fn engine(py: Python<'_>, found: &plane::EngineStats) -> PyResult<EngineStats> {
    Ok(EngineStats {
        tag: found.tag,
        incarnation: PyBytes::new(py, &found.incarnation).unbind(),
        state: if found.refused { STATE_REFUSED } else { STATE_ACCEPTED },
        ranks: found.ranks,
        groups: found.groups,
        ready: found.ready,
        alive: found.alive,
        leases: found.leases,
        tickets: found.tickets,
        ring_depth: found.ring_depth,
        step_epoch: found.step_epoch,
        fingerprint: found.fingerprint.map(|fingerprint| PyBytes::new(py, &fingerprint).unbind()),
        counters: figures(py, &found.counters)?,
    })
}

pub fn room(plane: &plane::Plane) -> Vec<ClassRoom> {
    let room = |(class_id, stride_bytes)| {
        let ((dram_free, dram_total), (nvme_free, nvme_total)) = (plane.dram_slots(class_id), plane.nvme_slots(class_id));
        let dram_to_come = plane.dram_slots_to_come(class_id);
        ClassRoom { class_id, stride_bytes, dram_free, dram_total, dram_to_come, nvme_free, nvme_total }
    };
    plane.classes().into_iter().map(room).collect()
}

pub fn lease_accounts(plane: &plane::Plane) -> Vec<LeaseAccount> {
    let accounts = plane.lease_accounts().into_iter();
    accounts.map(|(tag, group, class_id, idle, leased)| LeaseAccount { tag, group, class_id, idle, leased }).collect()
}
