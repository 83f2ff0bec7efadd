"""Which chunks a request waits for, decided from states alone."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from spillway import _core
from spillway.client.records import Group
from spillway.client.wait import PENDING, Wait, Wanted, select

M, H, N = _core.MISS, _core.HIT, _core.NVME
TOKENS = 256


def full(count: int, name: bytes = b"f") -> Group:
    return Group([name + bytes([at]) for at in range(count)], TOKENS, None)


def chosen(wanted: list[Wanted], group: int = 0) -> list[int]:
    return [entry.start_token // TOKENS for entry in wanted if entry.group == group]


def test_full_attention_takes_the_leading_run() -> None:
    assert chosen(select([full(5)], [bytes([H, N, PENDING, M, H])], 0, 5 * TOKENS)) == [0, 1, 2]


def test_tokens_on_the_device_are_skipped() -> None:
    assert chosen(select([full(4)], [bytes([N, N])], 2 * TOKENS, 4 * TOKENS)) == [2, 3]


def test_shortest_full_group_bounds_all() -> None:
    wanted = select([full(4), full(4, b"g")], [bytes([N] * 4), bytes([N, N, M, N])], 0, 4 * TOKENS)
    assert chosen(wanted, 0) == chosen(wanted, 1) == [0, 1]


def test_windowed_group_takes_its_last_window_and_bounds_the_prefix() -> None:
    window = Group([b"w%d" % at for at in range(6)], TOKENS, 2)
    wanted = select([full(6), window], [bytes([H] * 6), bytes([M, N, N, H, M, N])], 0, 6 * TOKENS)
    assert chosen(wanted, 1) == [2, 3]
    assert chosen(wanted, 0) == [0, 1, 2, 3]


def test_windowed_group_without_a_window_gives_nothing() -> None:
    window = Group([b"w%d" % at for at in range(3)], TOKENS, 2)
    assert select([full(3), window], [bytes([N] * 3), bytes([M, N, M])], 0, 3 * TOKENS) == []


@given(st.lists(st.sampled_from([M, H, N, PENDING]), max_size=40), st.integers(0, 10))
def test_one_full_group_is_exactly_the_run(states: list[int], start: int) -> None:
    total = (start + len(states)) * TOKENS
    wanted = select([full(start + len(states))], [bytes(states)], start * TOKENS, total)
    run = states.index(M) if M in states else len(states)
    assert chosen(wanted) == list(range(start, start + run))
    assert [entry.state for entry in wanted] == states[:run]


def make_wait(states: list[int], windows: frozenset[int] = frozenset()) -> Wait:
    wanted = [
        Wanted(b"%d" % at, 1 if at in windows else 0, at * TOKENS, state, at in windows)
        for at, state in enumerate(states)
    ]
    return Wait(
        wanted, started=0, deadline=9, stall_deadline=9, pending_deadline=9, reserved_bytes=0, promoted_bytes=0, word=1
    )


def test_lost_chunk_ends_the_prefix_before_it() -> None:
    wait = make_wait([H, N, N, N])
    wait.cut({b"2"})
    assert [entry.key for entry in wait.wanted] == [b"0", b"1"]
    assert wait.missing == {b"1"}


def test_lost_window_is_waited_for_no_more() -> None:
    wait = make_wait([N, N, N], windows=frozenset({1, 2}))
    wait.cut({b"1"})
    assert wait.missing == {b"0"}


def test_wait_goes_on_while_the_word_and_the_deadlines_do() -> None:
    wait = make_wait([N])
    assert wait.unchanged(1, 8.9)
    assert not wait.unchanged(2, 8.9)
    assert not wait.unchanged(1, 9)
