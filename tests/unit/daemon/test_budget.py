"""A daemon's heap at its cap: the oldest knowledge goes, not the process."""

from __future__ import annotations

import subprocess
import sys

from spillway.config import GIB, MIB, DramConfig, PoolIdentity, SidecarConfig, heap_bytes, index_bytes
from spillway.daemon.process import max_records

# A heap of 128 MiB, a million chunks told of as a scan tells of them, and every move carried out.
SCAN = """
import sys
from spillway.config import SidecarConfig
from spillway.daemon.process import cap_heap, max_records
from spillway.policy import Planner
config = SidecarConfig.model_validate_json(sys.argv[1])
cap_heap(config)
planner = Planner(1 << 30, 64, nvme_configured=True, nvme_usable=True, max_records=max_records(config))
dropped = 0
for turn in range(1000):
    for number in range(turn * 1000, turn * 1000 + 1000):
        planner.found(number.to_bytes(16, "big"), 0, 2)
    drop = planner.plan([], [], turn).drop
    assert drop == [number.to_bytes(16, "big") for number in range(dropped, dropped + len(drop))], "oldest first"
    planner.dropped(drop)
    dropped += len(drop)
print(1_000_000 - dropped)
"""


def config_of(heap: int, dram_bytes: int = 64 * MIB, nvme_bytes: int = 0) -> SidecarConfig:
    return SidecarConfig(
        pool=PoolIdentity(namespace="team", name="chat", uid="u"),
        revision="r",
        dram=DramConfig(capacity_bytes=dram_bytes),
        index_bytes=index_bytes(dram_bytes, nvme_bytes),
        heap_bytes=heap,
    )


def test_a_disk_of_more_chunks_than_the_heap_holds_leaves_the_daemon_alive() -> None:
    """As objects of Python a million chunks took 244 MB; the daemon hung where its heap ended."""
    config = config_of(128 * MIB)
    done = subprocess.run(
        [sys.executable, "-c", SCAN, config.render()], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == max_records(config) < 1_000_000


def test_the_operators_heap_knows_all_chunks_of_the_smallest_expected_size() -> None:
    dram, nvme = 64 * GIB, 2048 * GIB
    config = config_of(heap_bytes(index_bytes(dram, nvme)), dram, nvme)
    assert max_records(config) >= (dram + nvme) // (256 * 1024)
