"""No job is reported while bytes of it may move, however long that takes, and no other waits for it."""

from __future__ import annotations

import pytest
from spillway.adapters.vllm.copy_thread import QUEUED_SECONDS, STUCK_SECONDS, Begun, Over, StuckCopy

from tests.unit.adapter.conftest import SIZE_BYTES, Copies


def test_jobs_are_copied_in_order_and_reported_once(copies: Copies) -> None:
    first, second = copies.submit_running(1), copies.submit(2)
    assert copies.thread.running() == {1}
    first.ended = True
    assert second.asked.wait(10)
    assert copies.thread.running() == {2}
    second.ended = True
    copies.thread.wait({1, 2})
    assert copies.thread.take_over() == [Over(1, SIZE_BYTES, 0.0), Over(2, SIZE_BYTES, 0.0)]
    assert copies.thread.take_over() == []


def test_loads_overtake_stores_but_not_for_ever(copies: Copies) -> None:
    first = copies.submit_running(0)
    for job_id in range(1, 13):
        copies.submit(job_id).ended = True
    for job_id in range(101, 121):
        copies.submit(job_id, urgent=True).ended = True
    first.ended = True
    copies.thread.wait({12, 120})
    order = [over.job_id for over in copies.thread.take_over()]
    loads, stores = [job for job in order if job > 100], [job for job in order if job <= 100]
    assert loads == sorted(loads)
    assert stores == sorted(stores)
    assert order[:11] == [0, *range(101, 109), 1, 109]


def test_copy_under_way_has_no_time_out(copies: Copies) -> None:
    event = copies.submit_running(1)
    copies.clock.now += STUCK_SECONDS + 1
    for _ in range(3):
        with pytest.raises(StuckCopy, match="has not ended for 61 s"):
            copies.thread.take_over()
    copies.thread.cancel()
    assert copies.thread.running() == {1}  # whoever reports jobs leaves this one open

    event.ended = True
    copies.until_idle()
    assert [(over.job_id, over.size_bytes) for over in copies.thread.take_over()] == [(1, SIZE_BYTES)]


def test_reason_names_what_the_driver_said(copies: Copies) -> None:
    event = copies.submit_running(1)
    event.broken = "unspecified launch failure"
    event.asked.clear()
    assert event.asked.wait(10)
    copies.clock.now += STUCK_SECONDS + 1
    with pytest.raises(StuckCopy, match="unspecified launch failure"):
        copies.thread.take_over()


def test_copy_that_the_driver_did_not_answer_for_fails_when_it_is_over(copies: Copies) -> None:
    event = copies.submit_running(1)
    event.broken = "unspecified launch failure"
    event.asked.clear()
    assert event.asked.wait(10)
    assert copies.thread.take_over() == []
    event.ended, event.broken = True, None
    copies.thread.wait({1})
    assert copies.thread.take_over() == [Over(1, None, 0.0)]


def test_flush_does_not_wait_for_what_does_not_end(copies: Copies) -> None:
    copies.submit_running(1)
    copies.clock.now += STUCK_SECONDS + 1
    with pytest.raises(StuckCopy):
        copies.thread.wait({1})


def test_flush_goes_on_when_its_jobs_are_over(copies: Copies) -> None:
    copies.submit(1).ended = True
    copies.thread.wait({1, 99})
    assert [over.job_id for over in copies.thread.take_over()] == [1]


def test_cancelled_job_never_begins_and_nobody_waits_for_it(copies: Copies) -> None:
    running, queued = copies.submit_running(1), copies.submit(2)
    copies.thread.cancel()
    copies.thread.wait({2})
    running.ended = True
    copies.thread.wait({1})
    assert [over.job_id for over in copies.thread.take_over()] == [1]
    copies.submit(3).ended = True
    copies.thread.wait({3})
    assert not queued.asked.is_set()


def test_job_that_cannot_begin_fails_and_the_next_one_is_copied(copies: Copies) -> None:
    def begin() -> Begun:
        raise ValueError("the arena is not there yet")

    copies.thread.submit(1, begin)
    copies.submit(2).ended = True
    copies.thread.wait({1, 2})
    assert copies.thread.take_over() == [Over(1, None, 0.0), Over(2, SIZE_BYTES, 0.0)]


def test_job_that_was_queued_too_long_fails_without_having_begun(copies: Copies) -> None:
    first, second, third = copies.submit_running(1), copies.submit(2), copies.submit(3)
    copies.clock.now += 0.7 * QUEUED_SECONDS
    first.ended = True
    assert second.asked.wait(10)
    copies.clock.now += 0.7 * QUEUED_SECONDS
    assert [(over.job_id, over.size_bytes) for over in copies.thread.take_over()] == [(1, SIZE_BYTES), (3, None)]
    second.ended = True
    copies.thread.wait({2})
    copies.submit(4).ended = True
    copies.thread.wait({4})
    assert not third.asked.is_set()


def test_stop_says_whether_bytes_may_still_move(copies: Copies) -> None:
    event, queued = copies.submit_running(1), copies.submit(2)
    assert not copies.thread.stop(0.01)
    event.ended = True
    assert copies.thread.stop(10)
    assert not queued.asked.is_set()
