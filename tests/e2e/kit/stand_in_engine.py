"""An engine in miniature: stores chunks until some have left DRAM, has one brought back from NVMe and compares every byte of it.

Its source runs in a container with Python alone and what injection put in front of PYTHONPATH. It tells the outcome in one line and by the
file READY, then waits for its end. usage: python3 -c SOURCE [ROOT]
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import signal
import struct
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn, TypeVar

from spillway import _core

READY = "/tmp/ready"
CHUNK_BYTES = 1_000_000
# An arena of 64 MiB holds 60 of them. What leaves it before it was written is lost, so that more than one has to leave.
MOST_CHUNKS = 600
Seen = TypeVar("Seen")


def wait_for(what: str, look: Callable[[], Seen], seconds: float = 60) -> Seen:
    end = time.monotonic() + seconds
    while not (seen := look()):
        if time.monotonic() > end:
            sys.exit(f"waited {seconds} s for {what}")
        time.sleep(0.005)
    return seen


def key_of(number: int) -> bytes:
    return hashlib.sha256(b"block %d" % number).digest() + struct.pack(">I", 0)


def payload_of(number: int) -> bytes:
    return hashlib.shake_128(b"payload %d" % number).digest(CHUNK_BYTES)


class Engine:
    """Scheduler and only rank of one incarnation, of one group."""

    def __init__(self, root: str) -> None:
        incarnation = os.urandom(16)
        wait_for("the sidecar's run folder", lambda: Path(root, "run").is_dir())
        self.scheduler = _core.Attachment(root, incarnation, 1, 1, -1)
        self.rank = _core.Attachment(root, incarnation, 1, 1, 0)
        self.rank.declare_slices([CHUNK_BYTES])
        wait_for("the index", self.scheduler.try_map)
        wait_for("the geometry", self.scheduler.geometry)
        wait_for("room for the fingerprint", lambda: self.scheduler.set_fingerprint(hashlib.sha256(b"me").digest()))
        with Path(root, "arena", "arena").open("r+b") as file:
            self.arena = mmap.mmap(file.fileno(), 0)

    def store(self, number: int) -> None:
        (slot,) = struct.unpack("i", wait_for("a slot", lambda: self.scheduler.lease(0, 1)))
        self.bytes_of(slot)[:] = payload_of(number)
        self.scheduler.publish(key_of(number), 0, struct.pack("i", slot))
        wait_for(f"chunk {number} to be a hit", lambda: self.states([number]) == bytes([_core.HIT]))

    def states(self, numbers: Sequence[int]) -> bytes:
        answers = self.scheduler.lookup(b"".join(map(key_of, numbers)))
        self.scheduler.end_step()
        return answers

    def on_nvme(self, numbers: Sequence[int]) -> list[int]:
        return [number for number, state in zip(numbers, self.states(numbers), strict=True) if state == _core.NVME]

    def load(self, number: int) -> bytes:
        """The chunk's bytes, after it came to DRAM."""
        self.scheduler.promote(key_of(number), 0, 30_000)
        wait_for(f"chunk {number} to come from NVMe", lambda: self.states([number]) == bytes([_core.HIT]))
        self.scheduler.lookup(key_of(number))
        taken = self.scheduler.take_ticket(key_of(number))
        if taken is None:
            sys.exit(f"chunk {number} left DRAM at once")
        ticket, slot = taken
        loaded = bytes(self.bytes_of(*struct.unpack("i", slot)))
        self.scheduler.end_step()
        self.rank.ack(ticket)
        return loaded

    def bytes_of(self, slot: int) -> memoryview:
        start = slot * _core.PAGE_BYTES + _core.HEADER_BYTES
        return memoryview(self.arena)[start : start + CHUNK_BYTES]


def main() -> NoReturn:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    engine = Engine(sys.argv[1] if len(sys.argv) > 1 else "/spillway")
    stored = 0
    while not (left := engine.on_nvme(range(stored))):
        if stored == MOST_CHUNKS:
            sys.exit(f"{stored} chunks are stored and none of them is on NVMe")
        engine.store(stored)
        stored += 1
    if engine.load(left[0]) != payload_of(left[0]):
        sys.exit(f"chunk {left[0]} came back from NVMe with other bytes")
    print(json.dumps({"stored": stored, "loaded": left[0], "uid": os.getuid(), "gid": os.getgid()}), flush=True)
    Path(READY).touch()
    while True:
        signal.pause()


main()
