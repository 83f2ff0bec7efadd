//! Arguments that are records.

use std::path::{Path, PathBuf};
use std::time::Duration;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use spillway_engine::nvme::{Direct, NvmeConfig, RungKind};

/// What the NVMe tier shall be.
#[pyclass(frozen, module = "spillway._core")]
pub struct NvmeOptions {
    config: NvmeConfig,
}

impl NvmeOptions {
    /// Its folder and how it shall be.
    pub fn under(&self, root: &Path) -> (PathBuf, NvmeConfig) {
        (root.join("nvme"), self.config.clone())
    }
}

#[pymethods]
impl NvmeOptions {
    #[new]
    #[pyo3(signature = (*, capacity_bytes, slots = 1, io_threads = 8, direct = "auto", deadline_ms = 250, reserve_percent = 0))]
    fn new(capacity_bytes: u64, slots: u32, io_threads: usize, direct: &str, deadline_ms: u64, reserve_percent: u32) -> PyResult<Self> {
        let direct = match direct {
            "auto" => Direct::Auto,
            "required" => Direct::Required,
            "off" => Direct::Off,
            other => return Err(PyValueError::new_err(format!("direct is {other:?}, want 'auto', 'required' or 'off'"))),
        };
        let deadline = Duration::from_millis(deadline_ms);
        let best_rung = RungKind::RegisteredUring;
        Ok(Self { config: NvmeConfig { capacity_bytes, slots, io_threads, best_rung, direct, deadline, reserve_percent } })
    }
}
