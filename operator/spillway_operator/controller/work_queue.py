"""A level-triggered work queue: a key says "look at this", never what happened.

A key waits at most once and is worked on by at most one worker at a time; if it is added while its worker runs, it runs
once more afterwards. A failed key comes back after an exponential, jittered pause, a key whose worker asks for it after
that many seconds. Nothing is lost and nothing piles up, whatever the rate of watch events.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

import structlog

from spillway_operator.metrics import ESCAPED_ERRORS, QUEUE_DEPTH, RECONCILE_SECONDS, RECONCILES

FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 60.0

Key = TypeVar("Key")
log = structlog.get_logger()


class WorkQueue(Generic[Key]):
    """Holds keys and runs `work(key)` for them. Not thread-safe: use it from the event loop only.

    `work` returns the seconds after which it wants the key again, or None. An exception of a class in `expected` is a
    retry; any other is one too, but counted and logged with its traceback, because one bad pool must not stop the rest.
    """

    def __init__(
        self,
        work: Callable[[Key], Awaitable[float | None]],
        *,
        workers: int = 16,
        expected: tuple[type[Exception], ...] = (),
    ) -> None:
        self._work = work
        self._workers = workers
        self._expected = expected
        self._waiting: asyncio.Queue[Key] = asyncio.Queue()
        self._dirty: set[Key] = set()
        self._running: set[Key] = set()
        self._failures: dict[Key, int] = {}
        self._timers: dict[Key, asyncio.TimerHandle] = {}

    def add(self, key: Key) -> None:
        """Ask for a look at `key` as soon as a worker is free."""
        if key in self._dirty:
            return
        self._dirty.add(key)
        if key not in self._running:
            self._enqueue(key)

    def add_after(self, key: Key, seconds: float) -> None:
        """Ask for a look at `key` in `seconds`; of several pending requests the earliest wins."""
        loop = asyncio.get_running_loop()
        due_at = loop.time() + seconds
        pending = self._timers.get(key)
        if pending is not None and pending.when() <= due_at:
            return
        if pending is not None:
            pending.cancel()
        self._timers[key] = loop.call_at(due_at, self._fire, key)

    async def run(self) -> None:
        """Work until cancelled."""
        async with asyncio.TaskGroup() as group:
            for _ in range(self._workers):
                group.create_task(self._run_worker())

    def _fire(self, key: Key) -> None:
        self._timers.pop(key, None)
        self.add(key)

    def _enqueue(self, key: Key) -> None:
        self._waiting.put_nowait(key)
        QUEUE_DEPTH.set(self._waiting.qsize())

    async def _run_worker(self) -> None:
        while True:
            key = await self._waiting.get()
            QUEUE_DEPTH.set(self._waiting.qsize())
            self._dirty.discard(key)
            self._running.add(key)
            try:
                await self._run_once(key)
            finally:
                self._running.discard(key)
                if key in self._dirty:
                    self._enqueue(key)

    async def _run_once(self, key: Key) -> None:
        started_at = time.monotonic()
        try:
            again_seconds = await self._work(key)
        except self._expected as error:
            self._retry(key)
            log.warning("reconcile will be retried", key=str(key), reason=str(error), attempt=self._failures[key])
        except Exception:  # the named edge: one broken object must not stop the worker for all others
            self._retry(key)
            ESCAPED_ERRORS.labels(edge="work_queue").inc()
            log.exception("reconcile failed unexpectedly", key=str(key))
        else:
            self._failures.pop(key, None)
            RECONCILES.labels(result="done").inc()
            if again_seconds is not None:
                self.add_after(key, again_seconds)
        RECONCILE_SECONDS.observe(time.monotonic() - started_at)

    def _retry(self, key: Key) -> None:
        failures = self._failures.get(key, 0) + 1
        self._failures[key] = failures
        pause_seconds = min(FIRST_PAUSE_SECONDS * 2.0 ** min(failures - 1, 16), LONGEST_PAUSE_SECONDS)
        RECONCILES.labels(result="retried").inc()
        self.add_after(key, pause_seconds * random.uniform(0.75, 1.25))
