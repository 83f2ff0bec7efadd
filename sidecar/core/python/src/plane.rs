//! `Plane`: the sidecar's side. Whatever may take long releases the GIL.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use spillway_engine::key::Key16;
use spillway_engine::plane::{self, OpenOptions};

use crate::errors::{PlaneError, plane_error};
use crate::options::NvmeOptions;
use crate::{events, records};

/// The sidecar's side.
#[pyclass(module = "spillway._core")]
pub struct Plane {
    /// Python may share any object between threads, the plane has one owner. Every method borrows exclusively, so the lock is never waited for.
    inner: Mutex<Option<plane::Plane>>,
}

fn keys_of(keys: &[Bound<'_, PyBytes>]) -> PyResult<Vec<Key16>> {
    let parse = |key: &Bound<'_, PyBytes>| match key.as_bytes().try_into() {
        Ok(bytes) => Ok(Key16::from_bytes(bytes)),
        Err(_) => Err(PyValueError::new_err(format!("a key has {} bytes, want 16", key.as_bytes().len()))),
    };
    keys.iter().map(parse).collect()
}

fn seconds(name: &str, value: f64) -> PyResult<Duration> {
    Duration::try_from_secs_f64(value).map_err(|error| PyValueError::new_err(format!("{name} is {value}: {error}")))
}

impl Plane {
    fn live(&mut self) -> PyResult<&mut plane::Plane> {
        let inner = self.inner.get_mut().unwrap_or_else(PoisonError::into_inner);
        inner.as_mut().ok_or_else(|| PlaneError::new_err("the plane is closed"))
    }
}

#[pymethods]
impl Plane {
    #[staticmethod]
    #[pyo3(signature = (root, arena_bytes, index_bytes, nvme = None, *, lock_wait_seconds = 5.0, foreign_read_quarantine_seconds = 60.0, dead_grace_seconds = 2.0))]
    #[expect(clippy::too_many_arguments, reason = "keyword arguments of Python")]
    fn open(
        py: Python<'_>,
        root: PathBuf,
        arena_bytes: u64,
        index_bytes: u64,
        nvme: Option<PyRef<'_, NvmeOptions>>,
        lock_wait_seconds: f64,
        foreign_read_quarantine_seconds: f64,
        dead_grace_seconds: f64,
    ) -> PyResult<Self> {
        let options = OpenOptions {
            nvme: nvme.map(|nvme| nvme.under(&root)),
            root,
            arena_bytes,
            index_bytes,
            lock_wait: seconds("lock_wait_seconds", lock_wait_seconds)?,
            foreign_read_quarantine: seconds("foreign_read_quarantine_seconds", foreign_read_quarantine_seconds)?,
            dead_grace: seconds("dead_grace_seconds", dead_grace_seconds)?,
        };
        let opened = py.detach(|| plane::Plane::open(options)).map_err(plane_error)?;
        Ok(Self { inner: Mutex::new(Some(opened)) })
    }

    fn report(&mut self, py: Python<'_>) -> PyResult<records::Report> {
        records::report(py, self.live()?.report())
    }

    #[pyo3(signature = (timeout_ms, max_events = 1024))]
    fn poll(&mut self, py: Python<'_>, timeout_ms: u64, max_events: usize) -> PyResult<Vec<Py<PyAny>>> {
        let plane = self.live()?;
        let found = py.detach(|| plane.poll(Duration::from_millis(timeout_ms), max_events));
        found.into_iter().map(|event| events::event(py, event)).collect()
    }

    fn grant(&mut self, grants: Vec<(u8, usize, u64)>) -> PyResult<Vec<u64>> {
        let plane = self.live()?;
        Ok(grants.into_iter().map(|(tag, group, count)| plane.grant(tag, group, count)).collect())
    }

    fn recall(&mut self, recalls: Vec<(u8, usize, u64)>) -> PyResult<Vec<u64>> {
        let plane = self.live()?;
        Ok(recalls.into_iter().map(|(tag, group, count)| plane.recall_leases(tag, group, count)).collect())
    }

    fn lease_accounts(&mut self) -> PyResult<Vec<records::LeaseAccount>> {
        Ok(records::lease_accounts(self.live()?))
    }

    #[pyo3(signature = (keys, *, spare_pinned = false))]
    fn evict_dram(&mut self, keys: Vec<Bound<'_, PyBytes>>, spare_pinned: bool) -> PyResult<Vec<bool>> {
        let keys = keys_of(&keys)?;
        Ok(self.live()?.evict_dram(&keys, spare_pinned))
    }

    fn vacate_dram(&mut self, keys: Vec<Bound<'_, PyBytes>>, class_id: u8, max_extents: usize) -> PyResult<usize> {
        let keys = keys_of(&keys)?;
        Ok(self.live()?.vacate_dram(&keys, class_id, max_extents))
    }

    fn vacated_chunks<'py>(&mut self, py: Python<'py>) -> PyResult<Vec<Bound<'py, PyBytes>>> {
        let plane = self.live()?;
        let found = py.detach(move || plane.vacated_chunks());
        Ok(found.iter().map(|key| PyBytes::new(py, &key.to_bytes())).collect())
    }

    fn evict_nvme(&mut self, keys: Vec<Bound<'_, PyBytes>>) -> PyResult<Vec<bool>> {
        let keys = keys_of(&keys)?;
        Ok(self.live()?.evict_nvme(&keys))
    }

    fn nvme_neighbours<'py>(
        &mut self,
        py: Python<'py>,
        keys: Vec<Bound<'py, PyBytes>>,
        max_extents: usize,
    ) -> PyResult<Vec<Bound<'py, PyBytes>>> {
        let keys = keys_of(&keys)?;
        let plane = self.live()?;
        let found = py.detach(move || plane.nvme_neighbours(&keys, max_extents));
        Ok(found.iter().map(|key| PyBytes::new(py, &key.to_bytes())).collect())
    }

    fn set_nvme_deadline(&mut self, deadline_seconds: f64) -> PyResult<()> {
        let deadline = seconds("deadline_seconds", deadline_seconds)?;
        self.live()?.set_nvme_deadline(deadline);
        Ok(())
    }

    fn write(&mut self, py: Python<'_>, keys: Vec<Bound<'_, PyBytes>>) -> PyResult<Vec<bool>> {
        let keys = keys_of(&keys)?;
        let plane = self.live()?;
        Ok(py.detach(|| plane.write(&keys)))
    }

    fn read(&mut self, py: Python<'_>, keys: Vec<Bound<'_, PyBytes>>) -> PyResult<Vec<bool>> {
        let keys = keys_of(&keys)?;
        let plane = self.live()?;
        Ok(py.detach(|| plane.read(&keys)))
    }

    fn tiers<'py>(&mut self, py: Python<'py>, keys: Vec<Bound<'_, PyBytes>>) -> PyResult<Bound<'py, PyBytes>> {
        let keys = keys_of(&keys)?;
        Ok(PyBytes::new(py, &self.live()?.tiers(&keys)))
    }

    fn room(&mut self) -> PyResult<Vec<records::ClassRoom>> {
        Ok(records::room(self.live()?))
    }

    fn stats(&mut self, py: Python<'_>) -> PyResult<records::Stats> {
        records::stats(py, self.live()?)
    }

    fn flush(&mut self, py: Python<'_>, deadline_seconds: f64) -> PyResult<usize> {
        let deadline = seconds("deadline_seconds", deadline_seconds)?;
        let plane = self.live()?;
        Ok(py.detach(|| plane.flush(deadline)))
    }

    fn close(&mut self, py: Python<'_>) {
        let plane = self.inner.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        py.detach(|| drop(plane));
    }
}
