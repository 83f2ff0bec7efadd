//! `spillway._core`: the Python face of the engine crate. Converts, releases the GIL, maps errors; nothing else. Signatures: `_core.pyi`.

mod attachment;
mod constants;
mod errors;
mod events;
mod options;
mod plane;
mod records;
mod use_order;

use pyo3::prelude::*;

#[pymodule]
fn _core(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", spillway_engine::VERSION)?;
    constants::add_to(module)?;
    errors::add_to(module)?;
    events::add_to(module)?;
    records::add_to(module)?;
    module.add_class::<options::NvmeOptions>()?;
    module.add_class::<plane::Plane>()?;
    module.add_class::<use_order::UseOrder>()?;
    module.add_class::<attachment::Attachment>()
}
