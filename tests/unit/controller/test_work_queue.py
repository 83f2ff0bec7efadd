"""The queue: one look per key at a time, nothing lost, failures come back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from spillway_operator.controller import work_queue
from spillway_operator.controller.work_queue import WorkQueue

PATIENCE_SECONDS = 5.0


@asynccontextmanager
async def running(work: Callable[[str], Awaitable[float | None]], **options: object) -> AsyncIterator[WorkQueue[str]]:
    queue: WorkQueue[str] = WorkQueue(work, **options)  # type: ignore[arg-type]
    task = asyncio.create_task(queue.run())
    try:
        yield queue
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_key_added_while_it_is_worked_on_runs_once_more() -> None:
    started, go_on = asyncio.Queue[str](), asyncio.Event()

    async def work(key: str) -> None:
        started.put_nowait(key)
        await go_on.wait()

    async with running(work) as queue, asyncio.timeout(PATIENCE_SECONDS):
        queue.add("a")
        assert await started.get() == "a"
        for _ in range(5):
            queue.add("a")
        assert started.empty(), "two workers must not share a key"
        go_on.set()
        assert await started.get() == "a"
        queue.add("b")
        assert await started.get() == "b", "five additions are one run, not five"


async def test_keys_run_side_by_side() -> None:
    both = asyncio.Barrier(2)

    async def work(_key: str) -> None:
        await both.wait()
        done.set()

    done = asyncio.Event()
    async with running(work, workers=2) as queue, asyncio.timeout(PATIENCE_SECONDS):
        queue.add("a")
        queue.add("b")
        await done.wait()


@pytest.mark.parametrize("error", [OSError("expected"), RuntimeError("unexpected")])
async def test_a_failed_key_comes_back_and_others_go_on(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work_queue, "FIRST_PAUSE_SECONDS", 0.001)
    attempts = 0
    done, other_done = asyncio.Event(), asyncio.Event()

    async def work(key: str) -> None:
        nonlocal attempts
        if key == "other":
            other_done.set()
            return
        attempts += 1
        if attempts < 4:
            raise error
        done.set()

    async with running(work, workers=1, expected=(OSError,)) as queue, asyncio.timeout(PATIENCE_SECONDS):
        queue.add("bad")
        queue.add("other")
        await other_done.wait()
        await done.wait()
    assert attempts == 4


async def test_a_key_comes_back_when_its_worker_asks_for_it() -> None:
    runs = asyncio.Queue[str]()

    async def work(key: str) -> float | None:
        runs.put_nowait(key)
        return 0.001 if runs.qsize() < 3 else None

    async with running(work) as queue, asyncio.timeout(PATIENCE_SECONDS):
        queue.add("a")
        while runs.qsize() < 3:
            await asyncio.sleep(0)
