"""A real sidecar daemon on a folder, and an engine that stores and loads chunks on it."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from core.pod import FINGERPRINT, Engine, keys_of, payload_of, slots_of
from spillway import _core
from spillway.config import CONFIG_ENV, MIB, DramConfig, NvmeConfig, PoolIdentity, SidecarConfig

Answer = TypeVar("Answer")
TOKENS_PER_CHUNK = 512


def wait_for(what: str, done: Callable[[], Answer], seconds: float = 300.0) -> Answer:
    """Long, because a daemon that starts on a machine with other things to do may take minutes."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if answer := done():
            return answer
        time.sleep(0.02)
    raise AssertionError(f"waited {seconds} s for {what}")


class ServedSidecar:
    """The daemon's process with both tiers, and one engine of one rank."""

    def __init__(self, root: Path) -> None:
        for name in ("arena", "index", "run", "nvme"):
            (root / name).mkdir()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        config = SidecarConfig(
            pool=PoolIdentity(namespace="team", name="chat", uid="u"),
            revision="r",
            dram=DramConfig(capacity_bytes=64 * MIB),
            nvme=NvmeConfig(
                capacity_bytes=128 * MIB, reserve_percent=0, volume_type="EmptyDir", direct="Off", deadline_seconds=10
            ),
            index_bytes=MIB,
            http_port=self.port,
        )
        environment = {**os.environ, "SPILLWAY_ROOT": str(root), CONFIG_ENV: config.render()}
        self._root = root
        self.process = subprocess.Popen([sys.executable, "-m", "spillway.daemon"], env=environment)

    def attach(self) -> None:
        """Connect the engine, once the daemon serves."""
        self.engine: Engine = wait_for("the daemon", lambda: Engine(self._root, [[1_000_000]]))
        wait_for("the geometry", self.engine.scheduler.geometry)
        wait_for("the index", self.engine.scheduler.try_map)
        assert self.engine.scheduler.set_fingerprint(FINGERPRINT)

    def metrics(self) -> str:
        """What a scrape gets."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics") as answer:
            text: str = answer.read().decode()
        return text

    def work(self, number: int) -> None:
        """Store chunk `number`, look it and an absent one up, and load it."""
        scheduler, one = self.engine.scheduler, range(number, number + 1)
        (slot,) = slots_of(wait_for("a lease", lambda: scheduler.lease(0, 1)))
        start = slot * _core.PAGE_BYTES + _core.HEADER_BYTES
        with self.engine.arena() as arena:
            arena[start : start + self.engine.length] = payload_of(number, self.engine.length)
        assert scheduler.publish(keys_of(one), 0, struct.pack("i", slot)) == 1
        wait_for(f"chunk {number}", lambda: self._looks_up(one))
        scheduler.lookup(keys_of(one))
        ticket = scheduler.take_ticket(keys_of(one))
        scheduler.end_step()
        assert ticket is not None
        for rank in self.engine.ranks:
            rank.ack(ticket[0])
        counts = {
            "hit_keys": 1, "miss_keys": 1, "stored_chunks": 1, "loaded_chunks": 1,
            "looked_up_tokens": 2 * TOKENS_PER_CHUNK, "loaded_dram_tokens": TOKENS_PER_CHUNK,
        }  # fmt: skip
        for name, n in counts.items():
            scheduler.count(_core.COUNTER_NAMES.index(name), n)

    def _looks_up(self, keys: range) -> bool:
        answers = self.engine.scheduler.lookup(keys_of(keys))
        self.engine.scheduler.end_step()
        return answers == bytes([_core.HIT])

    def end(self) -> None:
        if hasattr(self, "engine"):
            self.engine.close()
        self.process.terminate()
        assert self.process.wait(120) == 0
