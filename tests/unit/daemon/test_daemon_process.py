"""The real daemon as a subprocess: chunks go in, hit, survive its SIGKILL, and its successor serves."""

from __future__ import annotations

import json
import os
import socket
import struct
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from core.pod import FINGERPRINT, Engine, keys_of, payload_of, slots_of
from spillway import _core
from spillway.config import CONFIG_ENV, MIB, DramConfig, PoolIdentity, SidecarConfig

SLICE_BYTES = [[1_000_000]]


def wait_for(what: str, done: Callable[[], Any], seconds: float = 60.0) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if answer := done():
            return answer
        time.sleep(0.01)
    raise AssertionError(f"waited {seconds} s for {what}")


class Daemon:
    def __init__(self, root: Path, config: str | None = None, pass_fds: tuple[int, ...] = ()) -> None:
        with socket.socket() as free:
            free.bind(("", 0))
            self.port = free.getsockname()[1]
        pool = PoolIdentity(namespace="team", name="chat", uid="u")
        valid = SidecarConfig(
            pool=pool, revision="r", dram=DramConfig(capacity_bytes=64 * MIB), index_bytes=MIB, http_port=self.port
        )
        environment = {**os.environ, "SPILLWAY_ROOT": str(root), CONFIG_ENV: config or valid.render()}
        self.process = subprocess.Popen([sys.executable, "-m", "spillway.daemon"], env=environment, pass_fds=pass_fds)

    def health(self) -> dict[str, Any]:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/healthz") as answer:
            return dict(json.load(answer))

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def root() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="spillway-test-", dir="/dev/shm") as folder:
        for name in ("arena", "index", "run"):
            (Path(folder) / name).mkdir()
        yield Path(folder)


def attach(root: Path) -> Engine:
    engine = wait_for("R/run", lambda: Engine(root, SLICE_BYTES))
    wait_for("geometry", engine.scheduler.geometry)
    wait_for("the index", engine.scheduler.try_map)
    assert engine.scheduler.set_fingerprint(FINGERPRINT)
    return engine


def lookup(engine: Engine, numbers: range) -> bytes:
    answers = engine.scheduler.lookup(keys_of(numbers))
    engine.scheduler.end_step()
    return answers


def store(engine: Engine, numbers: range) -> None:
    for number in numbers:
        (slot,) = slots_of(wait_for("a lease", lambda: engine.scheduler.lease(0, 1)))
        start = slot * _core.PAGE_BYTES + _core.HEADER_BYTES
        with engine.arena() as arena:
            arena[start : start + engine.length] = payload_of(number, engine.length)
        one = range(number, number + 1)
        assert engine.scheduler.publish(keys_of(one), 0, struct.pack("i", slot)) == 1
        wait_for(f"chunk {number}", lambda one=one: lookup(engine, one) == bytes([_core.HIT]))


def test_hits_survive_a_killed_daemon_and_a_successor_serves(root: Path) -> None:
    daemon = Daemon(root)
    engine = attach(root)
    store(engine, range(4))
    daemon.kill()
    assert lookup(engine, range(4)) == bytes([_core.HIT]) * 4
    successor = Daemon(root)
    try:
        store(engine, range(4, 8))
        assert lookup(engine, range(8)) == bytes([_core.HIT]) * 8
        assert successor.health()["state"] == "serving"
    finally:
        engine.close()
        successor.kill()


def test_evicts_the_oldest_chunks_once_the_arena_is_full(root: Path) -> None:
    daemon = Daemon(root)
    engine = attach(root)
    try:
        store(engine, range(150))
        assert lookup(engine, range(1)) == bytes([_core.MISS])
        assert lookup(engine, range(149, 150)) == bytes([_core.HIT])
    finally:
        engine.close()
        daemon.kill()


def test_ends_on_sigterm_with_an_engine_attached(root: Path) -> None:
    daemon = Daemon(root)
    engine = attach(root)
    daemon.process.terminate()
    try:
        assert daemon.process.wait(timeout=2) == 0
    finally:
        engine.close()
