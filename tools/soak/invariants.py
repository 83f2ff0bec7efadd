"""What must hold at every moment of the soak. Pure: figures in, what is broken out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

CHUNKS: Final = 'spillway_tier_chunks{tier="dram"}'
RECYCLING: Final = "spillway_recycling_slots"
# Each slot is one of these or free.
PARTS: Final = (CHUNKS, "spillway_leases", "spillway_reading_slots", RECYCLING, "spillway_quarantined_slots")
# What any of these counts, however often, is a broken invariant.
NEVER: Final = (
    "spillway_panics_contained_total",
    'spillway_quarantined_chunks_total{reason="corrupt_payload"}',
    'spillway_quarantined_chunks_total{reason="corrupt_header"}',
    'spillway_quarantined_chunks_total{reason="wrong_key"}',
    'spillway_quarantined_chunks_total{reason="misplaced"}',
    "spillway_io_errors_total",
)
# Chunks that nobody pins, beyond those that may just be written: then an engine that gets no lease starves.
EVICTABLE_MARGIN: Final = 16
# Descriptors beyond the daemon's own: control files of living and of lately killed engines, a scrape.
MAX_DESCRIPTORS: Final = 120


def evictable(samples: Mapping[str, float]) -> bool:
    """Whether DRAM surely holds something that could make room, and nothing that was evicted is on its way.

    What was evicted waits for steps: one that stands still holds it for 5 s (core, `epoch`), and who starves then is held up by
    design.
    """
    return samples[CHUNKS] - samples["spillway_pinned_slots"] > EVICTABLE_MARGIN and samples[RECYCLING] == 0


def broken(samples: Mapping[str, float], heap: int, heap_cap: int, descriptors: int) -> list[str]:
    """Sentences, one for each thing that does not hold."""
    found = []
    parts = {name: samples[name] for name in PARTS}
    taken = samples["spillway_taken_slots"]
    if sum(parts.values()) != taken:
        found.append(f"{taken:.0f} slots are taken, but {parts} add up to {sum(parts.values()):.0f}")
    found += [f"{name} is {samples[name]:.0f}" for name in NEVER if samples.get(name, 0) > 0]
    if heap > heap_cap:
        found.append(f"the heap is {heap} bytes, its cap {heap_cap}")
    if descriptors > MAX_DESCRIPTORS:
        found.append(f"{descriptors} descriptors are open")
    return found
