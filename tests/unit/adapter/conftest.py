"""A device that ends a copy when the test says so, which no real one can be made to do."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from spillway.adapters.vllm.copier import DeviceCopy
from spillway.adapters.vllm.copy_thread import Begun, CopyThread

from tests.unit.clock import Clock

SIZE_BYTES = 1 << 20
SECONDS = 10.0


@dataclass
class FakeEvent:
    """A device's event. `ended` and `broken` are the test's; `asked` is set whenever the adapter has asked."""

    ended: bool = False
    broken: str | None = None
    recorded: bool = False
    asked: threading.Event = field(default_factory=threading.Event)

    def record(self, stream: object) -> None:
        if self.broken is not None:
            raise RuntimeError(self.broken)
        self.recorded = True

    def query(self) -> bool:
        self.asked.set()
        if self.broken is not None:
            raise RuntimeError(self.broken)
        return self.ended


class Copies:
    """A copy thread whose clock stands still, and its jobs' events."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.thread = CopyThread(self.clock)
        self.events: list[FakeEvent] = []

    def submit(self, job_id: int, *, urgent: bool = False) -> FakeEvent:
        event = FakeEvent()
        self.events.append(event)
        self.thread.submit(job_id, lambda: Begun(DeviceCopy([event]), SIZE_BYTES), urgent=urgent)
        return event

    def submit_running(self, job_id: int) -> FakeEvent:
        """Return when the copy is under way."""
        event = self.submit(job_id)
        assert event.asked.wait(SECONDS), f"waited {SECONDS} s for job {job_id} to begin"
        return event

    def until_idle(self) -> None:
        """Return when nothing is under way, also where `CopyThread.wait` gives up."""
        end = time.monotonic() + SECONDS
        while running := self.thread.running():
            assert time.monotonic() < end, f"waited {SECONDS} s; {running} is under way"
            time.sleep(0.001)


@pytest.fixture
def copies() -> Iterator[Copies]:
    copies = Copies()
    yield copies
    for event in copies.events:
        event.ended, event.broken = True, None
    assert copies.thread.stop(SECONDS)
