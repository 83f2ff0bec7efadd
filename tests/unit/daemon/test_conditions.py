"""What opening a store cost is told, with what was lost, though the tier is active."""

from __future__ import annotations

from pathlib import Path

import pytest
from spillway import _core
from spillway.config import DramConfig, NvmeConfig, PoolIdentity, SidecarConfig
from spillway.daemon.conditions import find_conditions

from tests.unit.core.pod import MIB, Pod

PAGE = 4096
CAPACITY_BYTES = 65 * MIB


def open_store(root: Path) -> list[tuple[str, str, str, str]]:
    """Open the store as a daemon does; what it says."""
    options = _core.NvmeOptions(capacity_bytes=CAPACITY_BYTES, io_threads=1, deadline_ms=5000, direct="off")
    pod = Pod(root, nvme=options)
    config = SidecarConfig(
        pool=PoolIdentity(namespace="n", name="p", uid="u"), revision="r", dram=DramConfig(capacity_bytes=64 * MIB), index_bytes=4 * MIB,
        nvme=NvmeConfig(capacity_bytes=CAPACITY_BYTES, reserve_percent=0, volume_type="Ephemeral", direct="Off"),
    )  # fmt: skip
    said = find_conditions(config, pod.plane.report(), pod.plane.stats())
    pod.plane.close()
    return [(condition.type, condition.status, condition.reason, condition.message) for condition in said]


@pytest.mark.parametrize(
    ("damaged_byte", "expected", "lost"),
    [
        (17, ("StorageProvisioned", "True", "NvmeReformatted"), "the store was made anew: the superblock is damaged"),
        (PAGE + 8, ("Degraded", "True", "NvmeTableDamaged"), "1 pages of the extent table are damaged"),
    ],
)
def test_store_that_lost_something_says_what(
    tmp_path: Path, damaged_byte: int, expected: tuple[str, str, str], lost: str
) -> None:
    (tmp_path / "nvme").mkdir()
    assert open_store(tmp_path) == []
    assert open_store(tmp_path) == [], "an adopted store has lost nothing"
    (file,) = tmp_path.glob("nvme/slot-0/chunks")
    with file.open("r+b") as store:
        store.seek(damaged_byte)
        (before,) = store.read(1)
        store.seek(damaged_byte)
        store.write(bytes([before ^ 0x77]))
    ((*words, message),) = open_store(tmp_path)
    assert tuple(words) == expected
    assert lost in message
    assert "slot-0/chunks" in message
