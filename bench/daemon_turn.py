"""CPU of the daemon's thread per chunk, in a steady state: every chunk is stored, written to NVMe, and evicted from both tiers.

    python bench/daemon_turn.py [--chunks 8 64] [--total 4096] [--known 1000000 16000000]

Prints, for each number of chunks that engines publish per turn, microseconds of CPU per chunk: the whole turn, and the part
outside the core's calls that touch payload (poll, write, read hash it), which is what the daemon's Python costs. The chunks are
56 KiB, so that hashing them does not hide the rest, and the "disk" is in memory too, so that writes keep up. Needs 200 MiB in
/dev/shm.

With --known the planner is told of so many chunks of another model on the disk before it is measured again: a turn may not cost
more because much is known. 16 million take 700 MiB.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import struct
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from spillway import _core
from spillway.daemon.loop import Loop

MIB = 1 << 20
SLICE_BYTES = 56 << 10
DEADLINE_SECONDS = 60.0
# Of a class that no engine here has.
OTHER_MODEL = 63
# More than both tiers hold.
FILL_CHUNKS = 4096


class TimedPlane:
    """A plane that adds up the thread's CPU inside the calls that touch payload."""

    def __init__(self, plane: _core.Plane) -> None:
        self._plane = plane
        self.payload_ns = 0

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._plane, name)
        if name not in ("poll", "write", "read"):
            setattr(self, name, found)
            return found

        def timed(*args: Any) -> Any:
            began = time.thread_time_ns()
            answer = found(*args)
            self.payload_ns += time.thread_time_ns() - began
            return answer

        setattr(self, name, timed)
        return timed


class Bench:
    """One plane with a full DRAM tier and a full disk, and one engine."""

    def __init__(self, root: Path) -> None:
        disk = _core.NvmeOptions(capacity_bytes=MIB + 2 * _core.EXTENT_BYTES, io_threads=2, deadline_ms=30_000)
        self.plane = TimedPlane(_core.Plane.open(str(root), 64 * MIB, 4 * MIB, disk))
        self.loop = Loop(self.plane)  # type: ignore[arg-type]
        self.number = 0
        self.turn_ns = 0
        incarnation = os.urandom(16)
        self.rank = _core.Attachment(str(root), incarnation, 1, 1, 0)
        self.rank.declare_slices([SLICE_BYTES])
        self.engine = _core.Attachment(str(root), incarnation, 1, 1, -1)
        self.until(lambda: self.engine.geometry() is not None)
        assert self.engine.try_map()
        assert self.engine.set_fingerprint(hashlib.sha256(b"bench").digest())

    def turn(self) -> None:
        began = time.thread_time_ns()
        self.loop.turn(5)
        self.turn_ns += time.thread_time_ns() - began

    def until(self, done: Any) -> None:
        end = time.monotonic() + DEADLINE_SECONDS
        while not done():
            if time.monotonic() > end:
                raise TimeoutError("the plane does not go on")
            self.turn()

    def publish(self, chunks: int) -> None:
        """As an engine does in a step: lease, publish. What is in the slots does not matter."""
        slots = b""
        while len(slots) < 4 * chunks:
            slots += self.engine.lease(0, chunks - len(slots) // 4)
            if len(slots) < 4 * chunks:
                self.turn()
        numbers = range(self.number, self.number + chunks)
        self.number += chunks
        keys = b"".join(hashlib.sha256(b"%d" % number).digest() + struct.pack(">I", 0) for number in numbers)
        assert self.engine.publish(keys, 0, slots) == chunks

    def tell_of(self, known: int) -> None:
        """Have the planner know of so many chunks of another model."""
        # There is no disk of a terabyte here.
        planner = self.loop._planner
        for number in range(planner._nvme.count(OTHER_MODEL), known):
            planner.found(number.to_bytes(16, "little"), OTHER_MODEL, 2)

    def measure(self, chunks: int, total: int) -> tuple[float, float]:
        """(whole turns, outside payload calls) in microseconds per chunk."""
        while self.number < FILL_CHUNKS:
            self.publish(32)
            self.turn()
        turns, payload = self.turn_ns, self.plane.payload_ns
        for _ in range(total // chunks):
            self.publish(chunks)
            self.turn()
        whole = self.turn_ns - turns
        return whole / total / 1000, (whole - (self.plane.payload_ns - payload)) / total / 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--chunks", type=int, nargs="+", default=[8, 64], help="chunks that are published per turn")
    parser.add_argument("--total", type=int, default=4096, help="chunks measured at each")
    parser.add_argument("--known", type=int, nargs="*", default=[], help="chunks that are known besides")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir="/dev/shm") as root:
        (Path(root) / "nvme").mkdir()
        bench = Bench(Path(root))
        for known in [0, *args.known]:
            bench.tell_of(known)
            for chunks in args.chunks:
                whole, python = bench.measure(chunks, args.total)
                besides = f", {known} known besides" if known else ""
                sys.stdout.write(
                    f"{chunks} chunks per turn: {whole:.1f} us per chunk, {python:.1f} us of it Python{besides}\n"
                )


if __name__ == "__main__":
    main()
