"""A pod on a folder: one plane, any number of engines, and bounded waits that say what they waited for."""

from __future__ import annotations

import hashlib
import mmap
import os
import shutil
import struct
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from spillway import _core

MIB = 1 << 20
IN_MEMORY = ("arena", "index", "run")
Kind = TypeVar("Kind")
FINGERPRINT = hashlib.sha256(b"one engine").digest()


@contextmanager
def root_on(disk: Path) -> Iterator[Path]:
    """A pod's folder with its volume on a real disk, where O_DIRECT may be had, and all that is memory in memory.

    Nobody follows a link to a volume or in it, so it is the others that are links.
    """
    shm = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="spillway-test-", dir=shm if shm.is_dir() else None) as memory:
        for name in IN_MEMORY:
            (Path(memory) / name).mkdir()
            (disk / name).symlink_to(Path(memory) / name)
        (disk / "nvme").mkdir()
        yield disk


def forget_memory(root: Path) -> None:
    """As a pod's end does."""
    for name in IN_MEMORY:
        for entry in (root / name).iterdir():
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


def key_of(number: int, group: int = 0) -> bytes:
    """A key as an engine makes them: a block hash and its group."""
    return hashlib.sha256(b"block %d" % number).digest() + struct.pack(">I", group)


def keys_of(numbers: range, group: int = 0) -> bytes:
    return b"".join(key_of(number, group) for number in numbers)


def payload_of(number: int, length: int) -> bytes:
    """Bytes that belong to one chunk alone."""
    return hashlib.shake_128(b"payload %d" % number).digest(length)


def slots_of(packed: bytes) -> tuple[int, ...]:
    return struct.unpack(f"{len(packed) // 4}i", packed)


def figures_of(plane: _core.Plane) -> dict[str, Any]:
    """Every figure of the stats by its name, for a message."""
    stats = plane.stats()
    return {name: getattr(stats, name) for name in dir(stats) if not name.startswith("_")}


class Engine:
    """One incarnation with its ranks, all in this process."""

    def __init__(self, root: Path, slice_bytes: list[list[int]], incarnation: bytes | None = None) -> None:
        self.root = root
        self.incarnation = incarnation or os.urandom(16)
        ranks, groups = len(slice_bytes), len(slice_bytes[0])
        self.scheduler = _core.Attachment(str(root), self.incarnation, ranks, groups, -1)
        self.ranks = [_core.Attachment(str(root), self.incarnation, ranks, groups, rank) for rank in range(ranks)]
        for rank, sizes in zip(self.ranks, slice_bytes, strict=True):
            rank.declare_slices(sizes)
        self.length = sum(sizes[0] for sizes in slice_bytes)

    def arena(self) -> mmap.mmap:
        with (self.root / "arena/arena").open("r+b") as file:
            return mmap.mmap(file.fileno(), 0)

    def close(self) -> None:
        for attachment in [self.scheduler, *self.ranks]:
            attachment.close()


class Pod:
    """A plane that answers lease wishes; everything else a test does itself."""

    def __init__(
        self, root: Path, *, nvme: _core.NvmeOptions | None = None, arena_mib: int = 64, **options: float
    ) -> None:
        self.root = root
        self.nvme = nvme
        self.arena_mib = arena_mib
        self.options = options
        self.events: list[_core.Event] = []
        self.plane = self.open()

    def open(self) -> _core.Plane:
        return _core.Plane.open(str(self.root), self.arena_mib * MIB, 4 * MIB, self.nvme, **self.options)

    def restart(self) -> None:
        """A successor on the same files."""
        self.plane.close()
        self.events.clear()
        self.plane = self.open()

    def turn(self) -> list[_core.Event]:
        events = self.plane.poll(10)
        for event in events:
            match event:
                case _core.LeaseWanted(tag=tag, group=group, count=count):
                    self.plane.grant([(tag, group, count)])
                case _core.EngineReady(tag=tag, groups=groups):
                    self.plane.grant([(tag, group, 8) for group in range(groups)])
        self.events.extend(events)
        return events

    def until(self, what: str, done: Callable[[], Any], seconds: float = 10.0) -> Any:
        """Turn until done() is true; fails with what was awaited and what happened instead."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.turn()
            if answer := done():
                return answer
        seen = [type(event).__name__ for event in self.events]
        raise AssertionError(f"waited {seconds} s for {what}; events: {seen}; stats: {figures_of(self.plane)}")

    def seen(self, kind: type[Kind]) -> list[Kind]:
        return [event for event in self.events if isinstance(event, kind)]

    def attach(self, slice_bytes: list[list[int]] | None = None, **kwargs: bytes) -> Engine:
        engine = Engine(self.root, slice_bytes or [[100_000], [50_000]], **kwargs)
        self.until("geometry", engine.scheduler.geometry)
        assert engine.scheduler.try_map()
        assert engine.scheduler.set_fingerprint(FINGERPRINT)
        return engine

    def lease(self, engine: Engine, count: int) -> list[int]:
        """That many slots of group 0, as soon as the plane has granted them."""
        slots: list[int] = []

        def enough() -> bool:
            slots.extend(slots_of(engine.scheduler.lease(0, count - len(slots))))
            return len(slots) == count

        self.until(f"{count} leases", enough)
        return slots

    def store(self, engine: Engine, numbers: range) -> list[int]:
        """Lease, fill, publish; the slots, once all are HIT."""
        slots = self.lease(engine, len(numbers))
        with engine.arena() as arena:
            for number, slot in zip(numbers, slots, strict=True):
                start = slot * _core.PAGE_BYTES + _core.HEADER_BYTES
                arena[start : start + engine.length] = payload_of(number, engine.length)
        assert engine.scheduler.publish(keys_of(numbers), 0, struct.pack(f"{len(slots)}i", *slots)) == len(numbers)
        self.until("publication", lambda: self.lookup(engine, numbers) == bytes([_core.HIT]) * len(numbers))
        return slots

    def lookup(self, engine: Engine, numbers: range) -> bytes:
        answers = engine.scheduler.lookup(keys_of(numbers))
        engine.scheduler.end_step()
        return answers

    def pin(self, engine: Engine, numbers: range) -> tuple[int, tuple[int, ...]]:
        """One step that takes a ticket for chunks that are HIT."""
        assert engine.scheduler.lookup(keys_of(numbers)) == bytes([_core.HIT]) * len(numbers)
        taken = engine.scheduler.take_ticket(keys_of(numbers))
        engine.scheduler.end_step()
        assert taken is not None
        return taken[0], slots_of(taken[1])

    def load(self, engine: Engine, numbers: range) -> list[bytes]:
        """Pin, copy, acknowledge: the payloads."""
        ticket, slots = self.pin(engine, numbers)
        with engine.arena() as arena:
            starts = [slot * _core.PAGE_BYTES + _core.HEADER_BYTES for slot in slots]
            loaded = [arena[start : start + engine.length] for start in starts]
        for rank in engine.ranks:
            rank.ack(ticket)
        return loaded

    def key16(self, number: int) -> bytes:
        """The index's name of a chunk, by the formula of docs/formats.md."""
        mask = hashlib.sha256(b"spillway-key" + FINGERPRINT + key_of(number)[32:]).digest()
        return bytes(a ^ b for a, b in zip(key_of(number)[:16], mask, strict=False))
