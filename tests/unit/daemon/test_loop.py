"""The loop between core and policy, on a real plane with a disk."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from spillway import _core
from spillway.daemon.loop import Loop

from tests.unit.core.pod import Pod, keys_of

CHUNKS = range(100)
NVME_ONLY = bytes([_core.TIER_NVME]) * len(CHUNKS)
BOTH = bytes([_core.TIER_DRAM | _core.TIER_NVME]) * len(CHUNKS)


def turn_until(loop: Loop, what: str, done: Callable[[], bool], seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, f"waited {seconds} s for {what}"
        loop.turn(timeout_ms=5)


def test_chunk_that_several_requests_promote_counts_once(tmp_path: Path) -> None:
    """Requests with a common prefix name its chunks several times. Each is read once, and so takes its share once."""
    with tempfile.TemporaryDirectory(prefix="spillway-test-", dir="/dev/shm") as folder:
        root = Path(folder)
        (root / "nvme").symlink_to(tmp_path)
        pod = Pod(root, nvme=_core.NvmeOptions(capacity_bytes=128 << 20, io_threads=2, deadline_ms=5000))
        pod.until("the scan", lambda: pod.plane.stats()["nvme"]["scan_done"])
        engine = pod.attach()
        pod.store(engine, CHUNKS)
        keys = [pod.key16(number) for number in CHUNKS]
        loop = Loop(pod.plane)
        pod.until("writing", lambda: pod.plane.write(keys) and pod.plane.tiers(keys) == BOTH)
        (_, stride), *_ = pod.plane.classes()
        rounds = pod.arena_mib * (1 << 20) // stride // len(CHUNKS) + 1
        at_once: list[int] = []

        def promoted() -> bool:
            # The plane forgets a read when it is polled, so between turns this is what the last turn left on its way.
            at_once.append(pod.plane.stats()["reads_in_flight"])
            return pod.plane.tiers(keys) == BOTH

        for _ in range(rounds):
            at_once.clear()
            assert pod.plane.evict_dram(keys) == len(keys)
            turn_until(loop, "demotion", lambda: pod.plane.tiers(keys) == NVME_ONLY)
            for _request in range(3):
                engine.scheduler.promote(keys_of(CHUNKS), 0, 5000)
            turn_until(loop, "promotion", promoted)
            assert max(at_once) > len(CHUNKS) // 2, "the share is used up by reads that ended long ago"
        engine.close()
        pod.plane.close()
