//! The numbers of `_core.pyi`, from the engine crate's own.

use pyo3::prelude::*;
use pyo3::types::PyTuple;
use spillway_engine::attach::{HIT, MISS, NVME};
use spillway_engine::control;
use spillway_engine::key::KEY_BYTES;
use spillway_engine::layout::{self, COUNTERS};
use spillway_engine::plane::{OUTCOMES, Outcome, TIER_DRAM, TIER_NVME, TierState};

const OUTCOME_CONSTANTS: &[(&str, Outcome)] = &[
    ("OUT_OK", Outcome::Ok),
    ("OUT_CORRUPT_PAYLOAD", Outcome::CorruptPayload),
    ("OUT_CORRUPT_HEADER", Outcome::CorruptHeader),
    ("OUT_WRONG_KEY", Outcome::WrongKey),
    ("OUT_MISPLACED", Outcome::Misplaced),
    ("OUT_IO_ERROR", Outcome::IoError),
    ("OUT_GONE", Outcome::Gone),
    ("OUT_TIMEOUT", Outcome::Timeout),
];

const NUMBERS: &[(&str, u64)] = &[
    ("ABI", layout::ABI as u64),
    ("OLDEST_ABI", layout::OLDEST_ABI as u64),
    ("KEY_BYTES", KEY_BYTES as u64),
    ("HEADER_BYTES", layout::PAGE_BYTES),
    ("PAGE_BYTES", layout::PAGE_BYTES),
    ("EXTENT_BYTES", layout::EXTENT_BYTES),
    ("MIN_STRIDE_BYTES", layout::MIN_STRIDE_BYTES),
    ("MAX_RANKS", layout::MAX_RANKS as u64),
    ("MAX_GROUPS", layout::MAX_GROUPS as u64),
    ("MAX_TICKETS", layout::MAX_TICKETS as u64),
    ("MAX_TICKET_SLOTS", layout::MAX_TICKET_SLOTS as u64),
    ("MAX_GRANTED", layout::GRANT_SLOTS as u64),
    ("MISS", MISS as u64),
    ("HIT", HIT as u64),
    ("NVME", NVME as u64),
    ("STATE_NEW", control::STATE_NEW as u64),
    ("STATE_ACCEPTED", control::STATE_ACCEPTED as u64),
    ("STATE_REFUSED", control::STATE_REFUSED as u64),
    ("REFUSED_ABI", control::REFUSED_ABI as u64),
    ("REFUSED_GEOMETRY", control::REFUSED_GEOMETRY as u64),
    ("REFUSED_FAULT", control::REFUSED_FAULT as u64),
    ("REFUSED_TABLE_FULL", control::REFUSED_TABLE_FULL as u64),
    ("REFUSED_STALE", control::REFUSED_STALE as u64),
    ("TIER_DRAM", TIER_DRAM as u64),
    ("TIER_NVME", TIER_NVME as u64),
    ("NVME_OFF", TierState::Off as u64),
    ("NVME_SCANNING", TierState::Scanning as u64),
    ("NVME_ACTIVE", TierState::Active as u64),
    ("NVME_BROKEN", TierState::Broken as u64),
];

/// Add them all.
pub fn add_to(module: &Bound<'_, PyModule>) -> PyResult<()> {
    for (name, outcome) in OUTCOME_CONSTANTS {
        module.add(*name, *outcome as u8)?;
    }
    for (name, number) in NUMBERS {
        module.add(*name, *number)?;
    }
    for (index, name) in COUNTERS.iter().enumerate() {
        module.add(format!("COUNT_{}", name.to_uppercase()), index)?;
    }
    module.add("COUNTER_NAMES", PyTuple::new(module.py(), COUNTERS)?)?;
    module.add("OUTCOME_NAMES", PyTuple::new(module.py(), OUTCOMES)?)
}
