"""What the operator asks for is what the core makes of it: two entries per chunk, whatever the tables beside them take."""

from __future__ import annotations

from pathlib import Path

import pytest
from spillway import _core
from spillway.config import GIB, MIB, index_bytes


@pytest.mark.parametrize(("dram", "nvme"), [(64 * MIB, 0), (64 * MIB, 16 * GIB), (192 * MIB, 0), (256 * MIB, GIB)])
def test_the_index_has_two_entries_per_chunk(tmp_path: Path, dram: int, nvme: int) -> None:
    for name in ("arena", "index", "run"):
        (tmp_path / name).mkdir()
    plane = _core.Plane.open(str(tmp_path), dram, index_bytes(dram, nvme))
    try:
        assert plane.report().entries >= 2 * (dram + nvme) // (256 * 1024)
    finally:
        plane.close()
