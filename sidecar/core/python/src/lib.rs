//! `spillway._core`: the Python face of the engine crate.
use pyo3::prelude::*;

#[pymodule]
fn _core(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", spillway_engine::VERSION)
}
