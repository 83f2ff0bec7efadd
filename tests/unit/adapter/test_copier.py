"""A device's copy is over when the device says so, and in no other case."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from spillway.adapters.vllm.copier import DeviceCopy, PacedCopy, launch, parts

from tests.unit.adapter.conftest import FakeEvent

STREAM = object()


def queue_nothing() -> None:
    pass


def break_off() -> None:
    raise RuntimeError("invalid argument in the third run")


def test_copy_is_over_when_its_event_is() -> None:
    event = FakeEvent()
    copy = launch(queue_nothing, [event], [STREAM])
    assert event.recorded
    assert not copy.is_over()
    event.ended = True
    assert copy.is_over()
    assert copy.problem is None


def test_driver_that_raises_has_not_said_that_the_copy_is_over() -> None:
    event = FakeEvent()
    copy = launch(queue_nothing, [event], [STREAM])
    event.broken = "unspecified launch failure"
    assert not copy.is_over()
    event.broken, event.ended = None, True
    assert copy.is_over()
    assert copy.problem is not None and "unspecified launch failure" in copy.problem


def test_copy_whose_queueing_broke_off_is_waited_for_and_failed() -> None:
    event = FakeEvent()
    copy = launch(break_off, [event], [STREAM])
    assert event.recorded  # behind the runs that were queued before
    assert not copy.is_over()
    event.ended = True
    assert copy.is_over()
    assert copy.problem == "RuntimeError: invalid argument in the third run"


def test_copy_that_no_event_lies_behind_is_never_over() -> None:
    event = FakeEvent(ended=True, broken="out of memory")
    copy = launch(queue_nothing, [event], [STREAM])
    event.broken = None
    assert not copy.is_over()
    assert copy.problem == "out of memory"
    assert not DeviceCopy(None).is_over()


def test_copy_on_several_streams_is_over_when_the_last_of_them_is() -> None:
    events = [FakeEvent(), FakeEvent(), FakeEvent()]
    copy = launch(queue_nothing, events, [STREAM] * 3)
    for event in events:
        assert not copy.is_over()
        event.ended = True
    assert copy.is_over() and copy.problem is None


@given(lengths=st.lists(st.integers(1, 1 << 40), min_size=1, max_size=50), count=st.integers(1, 8))
def test_parts_are_the_whole_table_in_order(lengths: list[int], count: int) -> None:
    table = np.array(lengths, np.int64)
    pieces = parts(table, count)
    assert np.concatenate([table[piece] for piece in pieces]).tolist() == lengths
    assert len(pieces) <= count


def test_parts_have_about_as_many_bytes_each() -> None:
    assert all(184 <= np.full(100, 8)[piece].sum() <= 216 for piece in parts(np.full(100, 8), 4))


def paced(count: int, in_flight: int) -> tuple[PacedCopy, list[FakeEvent]]:
    events: list[FakeEvent] = []

    def piece() -> DeviceCopy:
        events.append(FakeEvent())
        return launch(queue_nothing, events[-1:], [STREAM])

    return PacedCopy([piece] * count, in_flight), events


def test_paced_copy_queues_a_piece_when_one_is_over() -> None:
    copy, events = paced(4, in_flight=2)
    assert len(events) == 2
    assert not copy.is_over() and len(events) == 2
    events[0].ended = True
    assert not copy.is_over() and len(events) == 3
    for event in events:
        event.ended = True
    assert not copy.is_over() and len(events) == 4
    events[3].ended = True
    assert copy.is_over() and copy.problem is None


def test_paced_copy_queues_nothing_behind_a_piece_that_failed_and_waits_for_what_is_under_way() -> None:
    copy, events = paced(4, in_flight=2)
    events[0].broken = "the device is gone"
    assert not copy.is_over()
    events[0].broken, events[0].ended = None, True
    assert not copy.is_over() and len(events) == 2
    events[1].ended = True
    assert copy.is_over() and "the device is gone" in str(copy.problem)


def test_paced_copy_whose_next_piece_cannot_be_begun_waits_for_what_is_under_way_and_has_failed() -> None:
    event = FakeEvent()

    def refuse() -> DeviceCopy:
        raise RuntimeError("no event")

    copy = PacedCopy([lambda: launch(queue_nothing, [event], [STREAM]), refuse], in_flight=2)
    assert not copy.is_over()
    event.ended = True
    assert copy.is_over() and "no event" in str(copy.problem)
