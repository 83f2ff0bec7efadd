//! `Attachment`: the engine's side. Never releases the GIL, as no call blocks and each is shorter than giving it away.

use std::path::PathBuf;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use spillway_engine::attach;

use crate::errors::{attach_error, value_error};

/// The engine's side of one role in one process.
#[pyclass(module = "spillway._core")]
pub struct Attachment {
    inner: Option<attach::Attachment>,
}

#[derive(FromPyObject)]
enum Groups {
    One(u8),
    Each(Vec<u8>),
}

type Geometry = Vec<(u64, u64, Vec<(u64, u64)>)>;

impl Attachment {
    fn live(&self) -> PyResult<&attach::Attachment> {
        self.inner.as_ref().ok_or_else(|| PyValueError::new_err("the attachment is closed"))
    }

    fn live_mut(&mut self) -> PyResult<&mut attach::Attachment> {
        self.inner.as_mut().ok_or_else(|| PyValueError::new_err("the attachment is closed"))
    }
}

/// int32 slots, native byte order.
fn slots_of(bytes: &[u8]) -> PyResult<Vec<u32>> {
    match bytes.as_chunks::<4>() {
        (slots, []) => Ok(slots.iter().map(|slot| u32::from_ne_bytes(*slot)).collect()),
        (_, rest) => Err(PyValueError::new_err(format!("slots end with {} bytes, each slot has 4", rest.len()))),
    }
}

fn bytes_of<'py>(py: Python<'py>, slots: &[u32]) -> Bound<'py, PyBytes> {
    let bytes: Vec<u8> = slots.iter().flat_map(|slot| slot.to_ne_bytes()).collect();
    PyBytes::new(py, &bytes)
}

#[pymethods]
impl Attachment {
    #[new]
    fn new(root: PathBuf, incarnation: &[u8], n_ranks: u32, n_groups: u32, rank: i32) -> PyResult<Self> {
        let wrong = || PyValueError::new_err(format!("incarnation has {} bytes, want 16", incarnation.len()));
        let incarnation = incarnation.try_into().map_err(|_| wrong())?;
        let inner = attach::Attachment::new(&root, incarnation, n_ranks, n_groups, rank).map_err(attach_error)?;
        Ok(Self { inner: Some(inner) })
    }

    fn try_map(&mut self) -> PyResult<bool> {
        self.live_mut()?.try_map().map_err(attach_error)
    }

    fn declare_slices(&mut self, slice_bytes: Vec<u64>) -> PyResult<()> {
        self.live_mut()?.declare_slices(&slice_bytes).map_err(value_error)
    }

    fn geometry(&self) -> PyResult<Option<Geometry>> {
        Ok(self.live()?.geometry())
    }

    fn state(&self) -> PyResult<(u32, u32)> {
        Ok(self.live()?.state())
    }

    fn tag(&self) -> PyResult<i64> {
        Ok(self.live()?.tag().map_or(-1, i64::from))
    }

    fn set_fingerprint(&mut self, fingerprint: &[u8]) -> PyResult<bool> {
        let wrong = || PyValueError::new_err(format!("fingerprint has {} bytes, want 32", fingerprint.len()));
        let fingerprint = fingerprint.try_into().map_err(|_| wrong())?;
        self.live_mut()?.set_fingerprint(fingerprint).map_err(value_error)
    }

    fn begin_step(&mut self) -> PyResult<()> {
        self.live_mut()?.begin_step();
        Ok(())
    }

    fn end_step(&mut self) -> PyResult<()> {
        self.live_mut()?.end_step();
        Ok(())
    }

    fn lookup<'py>(&mut self, py: Python<'py>, keys: &[u8]) -> PyResult<Bound<'py, PyBytes>> {
        let inner = self.live_mut()?;
        let count = keys.len() / spillway_engine::key::KEY_BYTES;
        PyBytes::new_with(py, count, |answers| inner.lookup(keys, answers).map_err(value_error))
    }

    fn promote(&mut self, keys: &[u8], groups: Groups, deadline_ms: u64) -> PyResult<usize> {
        let groups = match groups {
            Groups::One(group) => vec![group],
            Groups::Each(groups) => groups,
        };
        self.live_mut()?.promote(keys, &groups, deadline_ms).map_err(value_error)
    }

    fn take_ticket<'py>(&mut self, py: Python<'py>, keys: &[u8]) -> PyResult<Option<(u64, Bound<'py, PyBytes>)>> {
        let taken = self.live_mut()?.take_ticket(keys).map_err(value_error)?;
        Ok(taken.map(|(id, slots)| (id, bytes_of(py, &slots))))
    }

    fn cancel_ticket(&mut self, ticket: u64) -> PyResult<()> {
        self.live_mut()?.cancel_ticket(ticket);
        Ok(())
    }

    fn open_tickets(&self) -> PyResult<usize> {
        Ok(self.live()?.open_tickets())
    }

    fn granted(&self, group: usize) -> PyResult<u64> {
        self.live()?.granted(group).map_err(value_error)
    }

    fn lease<'py>(&mut self, py: Python<'py>, group: usize, count: usize) -> PyResult<Bound<'py, PyBytes>> {
        let slots = self.live_mut()?.lease(group, count).map_err(value_error)?;
        Ok(bytes_of(py, &slots))
    }

    fn release(&mut self, group: usize, slots: &[u8]) -> PyResult<usize> {
        self.live_mut()?.release(group, &slots_of(slots)?).map_err(value_error)
    }

    fn publish(&mut self, keys: &[u8], group: usize, slots: &[u8]) -> PyResult<usize> {
        self.live_mut()?.publish(keys, group, &slots_of(slots)?).map_err(value_error)
    }

    #[pyo3(name = "use")]
    fn use_keys(&mut self, keys: &[u8]) -> PyResult<()> {
        self.live_mut()?.use_keys(keys).map_err(value_error)
    }

    fn progress(&self) -> PyResult<u64> {
        Ok(self.live()?.progress())
    }

    fn sidecar_alive(&self) -> PyResult<bool> {
        Ok(self.live()?.is_sidecar_alive())
    }

    fn arena_path(&self) -> PyResult<String> {
        Ok(self.live()?.arena_path().to_string_lossy().into_owned())
    }

    fn arena_bytes(&self) -> PyResult<u64> {
        Ok(self.live()?.arena_bytes())
    }

    fn faulted_bytes(&self) -> PyResult<u64> {
        Ok(self.live()?.faulted_bytes())
    }

    fn ack(&mut self, ticket: u64) -> PyResult<()> {
        self.live_mut()?.ack(ticket).map_err(value_error)
    }

    fn count(&self, counter: usize, n: u64) -> PyResult<()> {
        self.live()?.count(counter, n);
        Ok(())
    }

    fn close(&mut self) {
        self.inner = None;
    }
}
