"""The real daemon as a process, and what it says of itself."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Final

from spillway.config import (
    CONFIG_ENV,
    MIB,
    DramConfig,
    NvmeConfig,
    PoolIdentity,
    SidecarConfig,
    heap_bytes,
    index_bytes,
)

DRAM_BYTES: Final = 256 * MIB
NVME_BYTES: Final = 513 * MIB
SCRAPE_SECONDS: Final = 10.0


def configuration(port: int) -> SidecarConfig:
    """Both tiers small, so that everything is evicted all the time."""
    index = index_bytes(DRAM_BYTES, NVME_BYTES)
    return SidecarConfig(
        pool=PoolIdentity(namespace="soak", name="soak", uid="soak"),
        revision="soak",
        dram=DramConfig(capacity_bytes=DRAM_BYTES),
        nvme=NvmeConfig(
            capacity_bytes=NVME_BYTES, reserve_percent=0, volume_type="Ephemeral", io_threads=2, deadline_seconds=30
        ),
        index_bytes=index,
        heap_bytes=heap_bytes(index),
        http_port=port,
        log_level="Warning",
    )


class Daemon:
    """One process on one folder."""

    def __init__(self, root: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = int(free.getsockname()[1])
        self.config = configuration(self.port)
        environment = {**os.environ, "SPILLWAY_ROOT": str(root), CONFIG_ENV: self.config.render()}
        self.process = subprocess.Popen([sys.executable, "-m", "spillway.daemon"], env=environment)

    @property
    def pid(self) -> int:
        return self.process.pid

    def metrics(self) -> dict[str, float] | None:
        """Samples by name and labels as Prometheus writes them; None: it does not answer."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=SCRAPE_SECONDS) as answer:
                text = answer.read().decode()
        except (OSError, urllib.error.URLError):
            return None
        samples = (line.rsplit(" ", 1) for line in text.splitlines() if line and not line.startswith("#"))
        return {name: float(value) for name, value in samples}

    def heap(self) -> int:
        """Bytes of private writable memory, mapped or used: what RLIMIT_DATA bounds."""
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmData:"))

    def descriptors(self) -> int:
        """Open files."""
        return sum(1 for _ in Path(f"/proc/{self.pid}/fd").iterdir())
