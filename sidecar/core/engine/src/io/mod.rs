//! Reading and writing the NVMe volume: a device, and the threads that use it.

mod buffer;
mod device;
mod pool;

pub use buffer::PageBuffer;
pub use device::{Device, FileDevice, IoFault, read_full, write_full};
pub(crate) use pool::{Done, Job, Outcome, Pool, Urgency, Work, probe};
