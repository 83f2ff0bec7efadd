//! `UseOrder`: what policy remembers of chunks, as a base class of its orders.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use spillway_engine::key::Key16;
use spillway_engine::use_order;

/// Keys in order of use, apart for each class.
#[pyclass(subclass, module = "spillway._core")]
pub struct UseOrder {
    order: use_order::UseOrder,
}

fn key_of(key: &Bound<'_, PyBytes>) -> PyResult<Key16> {
    match key.as_bytes().try_into() {
        Ok(bytes) => Ok(Key16::from_bytes(bytes)),
        Err(_) => Err(PyValueError::new_err(format!("a key has {} bytes, want 16", key.as_bytes().len()))),
    }
}

#[pymethods]
impl UseOrder {
    #[new]
    fn new() -> Self {
        Self { order: use_order::UseOrder::new() }
    }

    fn __len__(&self) -> usize {
        self.order.len()
    }

    fn __contains__(&self, key: &Bound<'_, PyAny>) -> bool {
        key.cast::<PyBytes>().ok().and_then(|key| key_of(key).ok()).is_some_and(|key| self.order.contains(key))
    }

    fn add(&mut self, key: &Bound<'_, PyBytes>, class_id: u8) -> PyResult<()> {
        self.order.add(key_of(key)?, class_id);
        Ok(())
    }

    fn touch(&mut self, key: &Bound<'_, PyBytes>) -> PyResult<bool> {
        Ok(self.order.touch(key_of(key)?))
    }

    fn discard(&mut self, key: &Bound<'_, PyBytes>) -> PyResult<bool> {
        Ok(self.order.discard(key_of(key)?))
    }

    fn class_of(&self, key: &Bound<'_, PyBytes>) -> PyResult<Option<u8>> {
        Ok(self.order.class_of(key_of(key)?))
    }

    fn count(&self, class_id: u8) -> usize {
        self.order.count(class_id)
    }

    #[pyo3(signature = (class_id, count, after = None))]
    fn oldest<'py>(
        &self,
        py: Python<'py>,
        class_id: u8,
        count: usize,
        after: Option<Bound<'py, PyBytes>>,
    ) -> PyResult<Vec<Bound<'py, PyBytes>>> {
        let after = after.as_ref().map(key_of).transpose()?;
        Ok(self.order.oldest(class_id, count, after).map(|key| PyBytes::new(py, &key.to_bytes())).collect())
    }

    fn spans(&self) -> Vec<(u8, u64, u64)> {
        self.order.spans().map(|span| (span.class, span.oldest, span.youngest)).collect()
    }

    fn memory_bytes(&self) -> usize {
        self.order.bytes()
    }
}
