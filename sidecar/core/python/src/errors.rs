//! One exception class per way to fail, from the engine crate's one error type.

use pyo3::create_exception;
use pyo3::exceptions::{PyException, PyValueError};
use pyo3::prelude::*;
use spillway_engine::error::CoreError as Error;

create_exception!(spillway._core, CoreError, PyException);
create_exception!(spillway._core, AttachError, CoreError);
create_exception!(spillway._core, AbiMismatch, AttachError);
create_exception!(spillway._core, SidecarAbsent, AttachError);
create_exception!(spillway._core, PlaneError, CoreError);
create_exception!(spillway._core, PlaneBusy, PlaneError);

/// What went wrong while an engine attached.
pub fn attach_error(error: Error) -> PyErr {
    let message = error.to_string();
    match error {
        Error::Abi { .. } => AbiMismatch::new_err(message),
        Error::Absent { .. } => SidecarAbsent::new_err(message),
        _ => AttachError::new_err(message),
    }
}

/// What went wrong while the sidecar opened its files.
pub fn plane_error(error: Error) -> PyErr {
    let message = error.to_string();
    match error {
        Error::Busy { .. } => PlaneBusy::new_err(message),
        _ => PlaneError::new_err(message),
    }
}

/// After construction only arguments can be wrong.
pub fn value_error(error: Error) -> PyErr {
    PyValueError::new_err(error.to_string())
}

/// Add the classes.
pub fn add_to(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = module.py();
    module.add("CoreError", py.get_type::<CoreError>())?;
    module.add("AttachError", py.get_type::<AttachError>())?;
    module.add("AbiMismatch", py.get_type::<AbiMismatch>())?;
    module.add("SidecarAbsent", py.get_type::<SidecarAbsent>())?;
    module.add("PlaneError", py.get_type::<PlaneError>())?;
    module.add("PlaneBusy", py.get_type::<PlaneBusy>())
}
