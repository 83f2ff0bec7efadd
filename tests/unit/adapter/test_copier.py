"""A device's copy is over when the device says so, and in no other case."""

from __future__ import annotations

from spillway.adapters.vllm.copier import DeviceCopy, launch

from tests.unit.adapter.conftest import FakeEvent

STREAM = object()


def queue_nothing() -> None:
    pass


def break_off() -> None:
    raise RuntimeError("invalid argument in the third run")


def test_copy_is_over_when_its_event_is() -> None:
    event = FakeEvent()
    copy = launch(queue_nothing, event, STREAM)
    assert event.recorded
    assert not copy.is_over()
    event.ended = True
    assert copy.is_over()
    assert copy.problem is None


def test_driver_that_raises_has_not_said_that_the_copy_is_over() -> None:
    event = FakeEvent()
    copy = launch(queue_nothing, event, STREAM)
    event.broken = "unspecified launch failure"
    assert not copy.is_over()
    event.broken, event.ended = None, True
    assert copy.is_over()
    assert copy.problem is not None and "unspecified launch failure" in copy.problem


def test_copy_whose_queueing_broke_off_is_waited_for_and_failed() -> None:
    event = FakeEvent()
    copy = launch(break_off, event, STREAM)
    assert event.recorded  # behind the runs that were queued before
    assert not copy.is_over()
    event.ended = True
    assert copy.is_over()
    assert copy.problem == "RuntimeError: invalid argument in the third run"


def test_copy_that_no_event_lies_behind_is_never_over() -> None:
    event = FakeEvent(ended=True, broken="out of memory")
    copy = launch(queue_nothing, event, STREAM)
    event.broken = None
    assert not copy.is_over()
    assert copy.problem == "out of memory"
    assert not DeviceCopy(None).is_over()
