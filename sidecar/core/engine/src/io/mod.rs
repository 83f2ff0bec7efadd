//! Reading and writing the NVMe volume: a device, and the ways of moving its bytes.
//!
//! The ladder ([`rung`]) picks a way at start. All of them take jobs at a desk ([`job`]), the most urgent first, and hand results back there.

mod buffer;
mod device;
mod job;
mod rung;
mod threads;
mod transform;
mod uring;

pub use buffer::PageBuffer;
pub use device::{Device, FileDevice, IoFault, read_full, write_full};
pub use job::Urgency;
pub(crate) use job::{Done, Job, Outcome, Pages, Work};
pub use rung::{Refusal, RungKind};
pub(crate) use rung::{Rung, Terms, climb};
pub(crate) use threads::probe;
pub use transform::{Identity, Transform};
