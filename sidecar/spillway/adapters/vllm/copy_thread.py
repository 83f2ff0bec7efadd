"""The thread that copies, one job after the other, and the account of the one whose bytes may be moving.

A job is over when no byte of it moves any more, and not before, however long that takes: there is no time-out on a copy under way. Whoever
hears that a job is over frees what it used. The sidecar recycles the arena's slots, and vLLM hands the blocks of a load that failed to the
next request at once, with no way to hold them back, so a copy that was only given up would write into another's slots and blocks.
A copy that never ends keeps them, and the request that waits for it, until the process dies; all others go on, because `StuckCopy` makes
the rank inert. Neither engine nor vLLM is needed here.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from spillway.adapters.vllm.copier import Copy

# A job that has not even begun after this is taken back and reported as failed.
QUEUED_SECONDS: Final = 60.0
# A copy under way for this long is not slow any more: the device or its driver hangs.
STUCK_SECONDS: Final = 60.0
# So many urgent jobs are begun before others, and then one of the others.
URGENT_IN_A_ROW: Final = 8
_POLL_SECONDS: Final = 0.0002
_STUCK_POLL_SECONDS: Final = 0.1
_LIVENESS_SECONDS: Final = 1.0

log = logging.getLogger("vllm.spillway")


class StuckCopy(Exception):
    """A copy does not end; this rank begins no other."""


class Begun(NamedTuple):
    """What a job's `begin` returns: its copy, and the payload bytes of it."""

    copy: Copy
    size_bytes: int


class Over(NamedTuple):
    """A job of which no byte moves any more. size_bytes: None when it failed."""

    job_id: int
    size_bytes: int | None
    seconds: float


@dataclass
class _Job:
    job_id: int
    begin: Callable[[], Begun]
    submitted: float
    urgent: bool
    first: bool
    copy: Copy | None = None
    over: threading.Event = field(default_factory=threading.Event)


class CopyThread:
    """All methods are for the engine's thread and return at once, but for `wait` and `stop`."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._wanted = threading.Condition(self._lock)
        self._stopped = False
        self._urgent_in_a_row = 0
        self._queued: dict[int, _Job] = {}
        self._running: _Job | None = None
        self._running_since = 0.0
        self._over: list[Over] = []
        self._thread = threading.Thread(target=self._loop, name="spillway-copy", daemon=True)
        self._thread.start()

    def submit(self, job_id: int, begin: Callable[[], Begun], *, urgent: bool = False, first: bool = False) -> None:
        """`begin` runs on the thread; what it raises fails the job, so it raises before a byte can move.

        Jobs of one kind keep their order; urgent ones overtake the others, which vLLM allows: it waits for a store before it
        hands the store's blocks to a load. first: before the urgent ones too.
        """
        job = _Job(job_id, begin, self._clock(), urgent, first)
        with self._wanted:
            self._queued[job_id] = job
            self._wanted.notify()

    def take_over(self) -> list[Over]:
        """The jobs that are over since the last call. Raises StuckCopy."""
        self._check()
        with self._lock:
            over, self._over = self._over, []
        return over

    def wait(self, job_ids: set[int]) -> None:
        """Return when all of them are over. Raises StuckCopy instead of waiting for what does not end."""
        with self._lock:
            jobs = [job for job in [*self._queued.values(), self._running] if job and job.job_id in job_ids]
        for job in jobs:
            while not job.over.is_set():
                self._check()
                job.over.wait(_LIVENESS_SECONDS)

    def cancel(self) -> None:
        """Begin nothing any more. Of the jobs that had not begun nothing is heard again."""
        with self._lock:
            dropped, self._queued = self._queued, {}
        for job in dropped.values():
            job.over.set()

    def running(self) -> set[int]:
        """The job of which bytes may be moving."""
        with self._lock:
            return set() if self._running is None else {self._running.job_id}

    def stop(self, seconds: float) -> bool:
        """Cancel, and give the running copy that long to end; whether none moves a byte any more."""
        self.cancel()
        with self._wanted:
            self._stopped = True
            self._wanted.notify()
        self._thread.join(seconds)
        return not self.running()

    def _check(self) -> None:
        """Fail what was queued too long. Raises StuckCopy when the thread will begin nothing any more."""
        now = self._clock()
        with self._lock:
            late = [job for job in self._queued.values() if now - job.submitted > QUEUED_SECONDS]
            for job in late:
                del self._queued[job.job_id]
                self._over.append(Over(job.job_id, None, 0.0))
            running, since = self._running, self._running_since
        for job in late:
            job.over.set()
        if running is not None and now - since > STUCK_SECONDS:
            problem = running.copy.problem if running.copy is not None else None
            reason = f" ({problem})" if problem is not None else ""
            raise StuckCopy(
                f"a copy has not ended for {now - since:.0f} s{reason}; it keeps its slots and blocks until it does"
            )
        if not self._thread.is_alive():
            raise StuckCopy("the copy thread is gone")

    def _loop(self) -> None:
        while (job := self._take()) is not None:
            size_bytes = self._run(job)
            with self._lock:
                self._over.append(Over(job.job_id, size_bytes, self._clock() - self._running_since))
                self._running = None
            job.over.set()

    def _take(self) -> _Job | None:
        """The next job, from now on the one under way; None when nothing will come any more."""
        with self._wanted:
            self._wanted.wait_for(lambda: self._queued or self._stopped)
            if not self._queued:
                return None
            job = self._next()
            del self._queued[job.job_id]
            self._urgent_in_a_row = self._urgent_in_a_row + 1 if job.urgent else 0
            self._running, self._running_since = job, self._clock()
            return job

    def _next(self) -> _Job:
        others_turn = self._urgent_in_a_row >= URGENT_IN_A_ROW
        jobs = self._queued.values()
        if (first := next((job for job in jobs if job.first), None)) is not None:
            return first
        return next((job for job in jobs if job.urgent != others_turn), next(iter(jobs)))

    def _run(self, job: _Job) -> int | None:
        """Copy a whole job, however long it takes. Its payload bytes, or None when it failed."""
        try:
            job.copy, size_bytes = job.begin()
        except Exception as error:  # noqa: BLE001  the engine's edge: the job fails, the engine recomputes
            log.warning("a copy failed: %s: %s", type(error).__name__, error)
            return None
        while not job.copy.is_over():
            stuck = self._clock() - self._running_since > STUCK_SECONDS
            time.sleep(_STUCK_POLL_SECONDS if stuck else _POLL_SECONDS)
        if job.copy.problem is not None:
            log.warning("a copy failed: %s", job.copy.problem)
            return None
        return size_bytes
