"""Routers are told what is true: when a chunk can be loaded, where from, and when it has left."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st
from spillway import _core
from spillway.client.announcements import LOOKED_UP_PER_STEP, MAX_TOLD, Announcements, Change

MISS, HIT, NVME = _core.MISS, _core.HIT, _core.NVME


def key(number: int) -> bytes:
    return number.to_bytes(36, "big")


def index(holds: dict[bytes, int]) -> Callable[[bytes], bytes]:
    return lambda keys: bytes(holds.get(keys[at : at + 36], MISS) for at in range(0, len(keys), 36))


def test_chunk_is_told_of_when_it_can_be_loaded_and_when_it_moves_and_leaves() -> None:
    told, holds = Announcements(), {}
    told.expect([key(1)])
    assert told.changes(1, index(holds)) == []
    holds[key(1)] = HIT
    assert told.changes(2, index(holds)) == [Change(key(1), MISS, HIT)]
    assert told.changes(2, index(holds)) == []
    holds[key(1)] = NVME
    assert told.changes(3, index(holds)) == [Change(key(1), HIT, NVME)]
    del holds[key(1)]
    assert told.changes(4, index(holds)) == [Change(key(1), NVME, MISS)]
    holds[key(1)] = HIT  # not of this engine's storing
    assert told.changes(5, index(holds)) == []


def test_nothing_is_looked_up_while_nothing_changes() -> None:
    told, asked = Announcements(), []

    def lookup(keys: bytes) -> bytes:
        asked.append(len(keys) // 36)
        return bytes([HIT]) * (len(keys) // 36)

    told.expect(key(number) for number in range(LOOKED_UP_PER_STEP + 10))
    for _ in range(5):
        told.changes(1, lookup)
    assert asked == [LOOKED_UP_PER_STEP, 10]


def test_weights_that_change_take_everything_back() -> None:
    told = Announcements()
    told.expect([key(1), key(2)])
    told.changes(1, index({key(1): HIT}))
    told.forget()
    assert told.changes(1, index({key(1): HIT, key(2): HIT})) == [Change(key(1), HIT, MISS)]


def test_what_is_not_followed_any_more_is_taken_back() -> None:
    told = Announcements()
    told.expect([key(0)])
    told.changes(1, index({key(0): HIT}))
    told.expect(key(number) for number in range(1, MAX_TOLD + 1))
    assert Change(key(0), HIT, MISS) in told.changes(1, index({}))


@given(st.lists(st.dictionaries(st.integers(0, 5), st.sampled_from([HIT, NVME])), max_size=8))
def test_a_router_that_believes_every_word_knows_the_truth(states: list[dict[int, int]]) -> None:
    told, believed = Announcements(), {}
    for word, state in enumerate(states):
        told.expect(key(number) for number in state)
        for change in told.changes(word, index({key(number): tier for number, tier in state.items()})):
            assert believed.get(change.key, MISS) == change.before
            believed[change.key] = change.now
        assert {k: v for k, v in believed.items() if v != MISS} == {key(n): tier for n, tier in state.items()}
