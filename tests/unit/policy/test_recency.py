"""What leaves a tier first, against a plain list and against what a trace of uses allows."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from spillway.policy import BYTES_PER_RECORD, Recency


def key_of(name: int) -> bytes:
    """The chunk of a letter."""
    return bytes([name]) * 16


def names_of(keys: Iterable[bytes]) -> bytes:
    """The letters of chunks."""
    return b"".join(key[:1] for key in keys)


KEYS = [key_of(name) for name in b"abcdefgh"]
CLASSES = [0, 1, 7]

keys = st.sampled_from(KEYS)
classes = st.sampled_from(CLASSES)
events = st.one_of(
    st.tuples(st.just("add"), keys, classes),
    st.tuples(st.just("touch"), keys, st.none()),
    st.tuples(st.just("discard"), keys, st.none()),
)
traces = st.lists(events, max_size=40)
stocks = st.lists(keys, unique=True, min_size=2).map(names_of)
small = st.integers(0, len(KEYS) // 2)
Event = tuple[str, bytes, int | None]


def replay(trace: list[Event], recency: Recency | None = None) -> Recency:
    recency = Recency() if recency is None else recency
    for name, key, class_id in trace:
        getattr(recency, name)(*((key,) if class_id is None else (key, class_id)))
    return recency


def filled(names: bytes) -> Recency:
    """One chunk of class 0 for each letter, the first letter being the oldest."""
    return replay([("add", key_of(name), 0) for name in names])


def order(recency: Recency, class_id: int = 0) -> bytes:
    """The single-letter keys of a class, oldest first."""
    return names_of(recency.victims(class_id, len(recency), one_of(b""), window=0))


def orders(recency: Recency) -> dict[int, bytes]:
    return {class_id: order(recency, class_id) for class_id in CLASSES}


def one_of(names: bytes) -> Callable[[bytes], bool]:
    return lambda key: key[:1] in names


def last_use(trace: list[Event], key: bytes) -> tuple[int, int] | None:
    """Class and time of a chunk that is still there at the end of a trace, read from the trace alone."""
    place = None
    for time, (name, changed, class_id) in enumerate(trace):
        if changed != key:
            continue
        if name == "discard":
            place = None
        elif name == "add" and class_id is not None:
            place = (class_id, time)
        elif place is not None:
            place = (place[0], time)
    return place


@given(traces)
def test_after_every_event_each_chunk_stands_once_in_its_class_by_last_use(trace: list[Event]) -> None:
    recency = Recency()
    for done in range(len(trace)):
        replay(trace[done : done + 1], recency)
        known = {key: place for key in KEYS if (place := last_use(trace[: done + 1], key)) is not None}
        by_time = sorted(known, key=lambda key: known[key][1])
        expected = {at: names_of(key for key in by_time if known[key][0] == at) for at in CLASSES}
        assert orders(recency) == expected
        assert len(recency) == len(known)


@given(stocks, small, small, st.sets(keys))
def test_victims_are_the_preferred_of_the_oldest_then_the_oldest(
    stock: bytes, count: int, window: int, liked: set[bytes]
) -> None:
    left = [key_of(name) for name in stock][: count + window]
    expected: list[bytes] = []
    while left and len(expected) < count:
        expected.append(next((key for key in left if key in liked), left[0]))
        left.remove(expected[-1])
    assert filled(stock).victims(0, count, liked.__contains__, window=window) == expected


@given(stocks, small, small, st.sets(keys))
def test_asking_for_victims_changes_nothing(stock: bytes, count: int, window: int, liked: set[bytes]) -> None:
    """A victim that the core refuses, because it is being written, stays as old as it was."""
    recency = filled(stock)
    recency.victims(0, count, liked.__contains__, window=window)
    recency.victims(1, count, liked.__contains__, window=window)
    assert orders(recency) == {**dict.fromkeys(CLASSES, b""), 0: stock}
    assert len(recency) == len(stock)


@given(stocks, stocks, st.integers(1, 3), st.sets(keys))
def test_evicting_until_nothing_is_left_takes_each_chunk_of_the_class_once(
    stock: bytes, others: bytes, count: int, liked: set[bytes]
) -> None:
    others = others.upper()
    recency, gone = replay([("add", key_of(name), 7) for name in others], filled(stock)), b""
    for _ in stock:
        for key in recency.victims(0, count, liked.__contains__):
            recency.discard(key)
            gone += key[:1]
    assert sorted(gone) == sorted(stock)
    assert orders(recency) == {**dict.fromkeys(CLASSES, b""), 7: others}
    assert len(recency) == len(others)


@given(st.lists(keys, max_size=60), st.integers(1, 6))
def test_tier_of_n_slots_hits_when_fewer_than_n_others_came_since(uses: list[bytes], slots: int) -> None:
    """What least recently used means, said without a cache: the distinct chunks between two uses of one decide."""
    recency, cached = Recency(), set[bytes]()
    for now, key in enumerate(uses):
        before = [at for at in range(now) if uses[at] == key]
        assert (key in cached) == (bool(before) and len(set(uses[before[-1] + 1 : now])) < slots)
        if key in cached:
            recency.touch(key)
            continue
        for victim in recency.victims(0, max(len(cached) + 1 - slots, 0), one_of(b"")):
            recency.discard(victim)
            cached.remove(victim)
        recency.add(key, 0)
        cached.add(key)
        assert len(recency) == len(cached) <= slots


@given(st.lists(st.integers(1, len(KEYS)), min_size=1, max_size=10))
def test_suffix_leaves_before_its_prefix(lengths: list[int]) -> None:
    """Requests of one conversation, each some chunks of it long; the engine names the last chunk first."""
    recency = filled(names_of(KEYS))
    for length in lengths:
        for key in reversed(KEYS[:length]):
            recency.touch(key)
    used = order(recency)[-max(lengths) :]
    assert used == names_of(reversed(KEYS[: max(lengths)]))


def test_chunk_with_a_copy_below_leaves_before_an_older_one_without() -> None:
    assert names_of(filled(b"abcd").victims(0, 1, one_of(b"cd"))) == b"c"
    assert names_of(filled(b"abcd").victims(0, 3, one_of(b"cd"))) == b"cda"


@pytest.mark.parametrize(("copy", "victim"), [(b"c", b"c"), (b"d", b"a")])
def test_a_copy_below_counts_only_among_the_oldest(copy: bytes, victim: bytes) -> None:
    """A chunk in use does not go only because it was written and the old ones were not."""
    assert filled(b"abcdef").victims(0, 1, one_of(copy), window=2) == [victim * 16]


@given(st.integers(0, 200), st.integers(0, 20), st.integers(0, 20))
def test_a_choice_looks_at_few_chunks_however_many_there_are(chunks: int, count: int, window: int) -> None:
    """An engine waits for the slot meanwhile."""
    recency, looks = Recency(), list[bytes]()
    for name in range(chunks):
        recency.add(b"%016d" % name, 0)

    def is_below(key: bytes) -> bool:
        looks.append(key)
        return False

    recency.victims(0, count, is_below, window=window)
    assert len(looks) <= min(chunks, count + window)
    assert len(looks) == len(set(looks))


def shared(*uses: tuple[bytes, int]) -> Recency:
    """Chunks of several classes in order of use; the letters of one entry share its class."""
    return replay([("add", key_of(name), class_id) for names, class_id in uses for name in names])


def test_class_without_chunks_gets_from_the_one_with_the_oldest() -> None:
    assert shared((b"ab", 0), (b"cd", 1)).donor(7) == 0
    assert shared((b"cd", 1), (b"ab", 0)).donor(7) == 1


def test_class_alone_has_no_donor() -> None:
    assert Recency().donor(0) is None
    assert filled(b"abcd").donor(0) is None


def test_class_takes_from_one_that_is_used_less_and_not_the_other_way_round() -> None:
    stale_first = shared((b"abcdefgh", 0), (b"ijklmnop", 1))
    assert stale_first.donor(1) == 0
    assert stale_first.donor(0) is None


def test_classes_that_are_used_alike_leave_each_other_their_extents() -> None:
    """A hybrid model writes one chunk of each class in turn; an extent that went to and fro would evict 64 MiB each time."""
    alike = shared(*((bytes([name]), at % 2) for at, name in enumerate(b"abcdefghijklmnopqrst")))
    assert alike.donor(0) is None
    assert alike.donor(1) is None


@given(traces, classes)
def test_donor_is_the_oldest_of_its_class_and_older_than_what_the_class_has(trace: list[Event], class_id: int) -> None:
    recency = replay(trace)
    donor = recency.donor(class_id)
    known = [place for key in KEYS if (place := last_use(trace, key)) is not None]
    own = [time for at, time in known if at == class_id]
    others = {time: at for at, time in known if at != class_id}
    if donor is None:
        assert own or not others
    else:
        assert others[min(others)] == donor
        assert not own or min(others) < min(own)


@given(stocks, small, small, st.sets(keys), st.sets(keys))
def test_what_is_kept_is_no_victim_and_no_look(
    stock: bytes, count: int, window: int, liked: set[bytes], kept: set[bytes]
) -> None:
    without = bytes(name for name in stock if key_of(name) not in kept)
    chosen = filled(stock).victims(0, count, liked.__contains__, kept.__contains__, window=window)
    assert chosen == filled(without).victims(0, count, liked.__contains__, window=window)


@given(traces)
def test_oldest_class_is_that_of_the_chunk_used_longest_ago(trace: list[Event]) -> None:
    known = [place for key in KEYS if (place := last_use(trace, key)) is not None]
    assert replay(trace).oldest_class() == (min(known, key=lambda place: place[1])[0] if known else None)


def test_a_chunk_costs_what_the_budget_says() -> None:
    """Beyond a first segment; as objects of Python it was 244 bytes."""
    recency, chunks = Recency(), 50_000
    for name in range(chunks):
        recency.add(b"%016d" % name, name % 3)
    assert recency.memory_bytes() <= chunks * BYTES_PER_RECORD


@pytest.mark.parametrize("key", [b"", b"short", b"longer than sixteen"])
def test_a_key_of_another_length_is_an_error_and_unknown(key: bytes) -> None:
    recency = Recency()
    with pytest.raises(ValueError, match="want 16"):
        recency.add(key, 0)
    assert key not in recency
