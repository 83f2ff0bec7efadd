"""A list and a watch over whatever an API server, or who stands in between, may answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from scripted_api import ScriptedApi, Seen, Watch, bookmark, line, make_metrics, make_object
from spillway_operator.kube import reader as reader_module
from spillway_operator.kube import reflector as reflector_module
from spillway_operator.kube.reader import ApiReader
from spillway_operator.kube.reflector import Reflector
from spillway_operator.kube.resources import PODS


@asynccontextmanager
async def following(api: ScriptedApi, seen: Seen, silence_seconds: float = 30.0) -> AsyncIterator[Reflector]:
    """A reflector of that server for the length of the context, whose body begins when the script has been played."""
    reflector = Reflector(PODS, seen, make_metrics(), label_selector="spillway.dev/pool", sleep=api.sleep)
    async with api.serve(silence_seconds) as reader, asyncio.TaskGroup() as tasks:
        follow = tasks.create_task(reflector.follow(reader))
        async with asyncio.timeout(20):
            await api.idle.wait()
        yield reflector
        assert not follow.done()
        follow.cancel()


async def test_objects_are_told_page_by_page() -> None:
    seen = Seen()
    told: list[int] = []
    api = ScriptedApi([make_object(f"pod-{number}") for number in range(1000)])
    api.on_list = lambda: told.append(len(seen.there))
    async with following(api, seen) as reflector:
        assert len(seen.there) == 1000
        assert reflector.synced.is_set()
    assert told == [0, 50, 550], "who is told of a page keeps of it what he needs before the next one comes"
    assert all(query["labelSelector"] == "spillway.dev/pool" for query in api.asked)


async def test_a_page_is_as_long_as_some_bytes_allow() -> None:
    seen = Seen()
    large = "x" * 100_000
    api = ScriptedApi([make_object(f"pod-{number}", spec=large) for number in range(150)])
    async with following(api, seen):
        assert len(seen.there) == 150
    limits = [int(query["limit"]) for query in api.listed]
    assert limits[0] == reader_module.FIRST_PAGE
    assert all(limit * 100_000 <= reader_module.PAGE_BYTES for limit in limits[1:])


async def test_a_watch_goes_on_where_it_ended() -> None:
    seen = Seen()
    api = ScriptedApi([make_object("a")])
    api.watches = [
        Watch(line("ADDED", make_object("b", version=11)) + line("MODIFIED", make_object("a", version=12))),
        Watch(line("DELETED", make_object("a", version=13)) + bookmark(20)),
    ]
    async with following(api, seen):
        assert seen.there == {"b": "uid-b"}
    assert len(api.listed) == 1
    assert api.watched_from == ["10", "12", "20"]


ERRORS = {
    "410": {"code": 410, "message": "too old resource version"},
    "500": {"code": 500, "message": "etcd event received with PrevKv=nil"},
    "403": {"code": 403},
    "504": {"code": 504, "message": "Too large resource version"},
    "without a code": {"message": "unable to decode an event"},
    "code is a word": {"code": "gone"},
    "no status": "broken",
    "nothing": None,
}


@pytest.mark.parametrize("status", ERRORS.values(), ids=ERRORS)
async def test_an_error_in_a_watch_makes_a_new_list(status: object) -> None:
    seen = Seen()
    api = ScriptedApi([make_object("a"), make_object("b")])
    listings = iter(([make_object("a"), make_object("b")], [make_object("b"), make_object("c")]))

    def change() -> None:
        api.objects = next(listings)

    api.on_list = change
    api.watches = [Watch(line("ERROR", status))]
    async with following(api, seen):
        assert seen.there == {"b": "uid-b", "c": "uid-c"}
        assert ("DELETED", "a") in seen.events, "nobody else tells of it"
    assert len(api.listed) == 2
    assert len(api.pauses) == 1


async def test_a_busy_server_is_asked_again_from_where_it_was() -> None:
    seen = Seen()
    api = ScriptedApi([make_object("a")], watches=[Watch(line("ERROR", {"code": 429})), Watch(status=429)])
    async with following(api, seen):
        pass
    assert len(api.listed) == 1
    assert api.watched_from == ["10", "10", "10"]
    assert len(api.pauses) == 2


ODD_LINES = {
    "no JSON": b"<html>\n",
    "half of a line": line("ADDED", make_object("b"))[:30],
    "a list": b"[1]\n",
    "a number": b"7\n",
    "no type": b'{"object": {"metadata": {"name": "b", "uid": "u", "resourceVersion": "11"}}}\n',
    "no object": b'{"type": "ADDED"}\n',
    "a type that nobody knows": line("RENAMED", make_object("b")),
    "no metadata": line("ADDED", {}),
    "no name": line("ADDED", {"metadata": {"uid": "u", "resourceVersion": "11"}}),
    "no version": line("MODIFIED", {"metadata": {"name": "b", "uid": "u"}}),
    "a name that is a number": line("ADDED", {"metadata": {"name": 1, "uid": "u", "resourceVersion": "11"}}),
    "a namespace that is a list": line(
        "ADDED", {"metadata": {"name": "b", "namespace": [], "uid": "u", "resourceVersion": "11"}}
    ),
    "a bookmark of nothing": line("BOOKMARK", {"metadata": {}}),
    "no text": b"\xff\xfe\n",
    "no end": b"x" * (3 * reader_module.MAX_EVENT_BYTES) + b"\n",
}


@pytest.mark.parametrize("odd", ODD_LINES.values(), ids=ODD_LINES)
async def test_an_odd_line_makes_a_new_list(odd: bytes) -> None:
    seen = Seen()
    api = ScriptedApi([make_object("a")], watches=[Watch(line("ADDED", make_object("c", version=11)) + odd)])
    async with following(api, seen):
        assert seen.there == {"a": "uid-a"}
    assert len(api.listed) == 2
    assert len(api.pauses) == 1


async def test_an_empty_line_says_nothing() -> None:
    seen = Seen()
    api = ScriptedApi([make_object("a")], watches=[Watch(b"\n  \n" + line("ADDED", make_object("b", version=11)))])
    async with following(api, seen):
        assert len(seen.there) == 2
    assert api.watched_from == ["10", "11"]


@pytest.mark.parametrize(
    "script",
    [Watch(), Watch(bookmark(11)), Watch(status=500), Watch(status=403), Watch(line("ERROR", {"code": 410}))],
    ids=["empty", "one bookmark", "500", "403", "gone"],
)
async def test_a_watch_that_does_not_serve_is_asked_for_ever_more_rarely(script: Watch) -> None:
    api = ScriptedApi([make_object("a")], watches=[script] * 12)
    async with following(api, Seen()):
        pass
    longest = [min(0.5 * 2.0**attempt, 30.0) for attempt in range(12)]
    assert len(api.pauses) == len(longest)
    assert all(0.5 * bound <= pause <= bound for pause, bound in zip(api.pauses, longest, strict=True))


async def test_a_watch_that_has_served_is_asked_for_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reflector_module, "SERVED_SECONDS", 0.0)
    api = ScriptedApi([make_object("a")], watches=[Watch(bookmark(11)), Watch(bookmark(12))])
    async with following(api, Seen()):
        pass
    assert api.pauses == []


NO_LISTS = {
    "empty": (200, b""),
    "null": (200, b"null"),
    "no list": (200, b"{}"),
    "no version": (200, b'{"metadata": {}, "items": []}'),
    "items are a word": (200, b'{"metadata": {"resourceVersion": "1"}, "items": "none"}'),
    "a page of a proxy": (200, b"<html>"),
    "500": (500, b"{}"),
    "403": (403, b'{"message": "no"}'),
    "410": (410, b""),
}


@pytest.mark.parametrize("answer", NO_LISTS.values(), ids=NO_LISTS)
async def test_an_answer_that_is_no_list_takes_nothing_away(answer: tuple[int, bytes]) -> None:
    seen = Seen()
    api = ScriptedApi([make_object("a")], watches=[Watch(line("ERROR", {"code": 410}))])

    def refuse() -> None:
        if len(api.listed) == 1:
            api.lists = [answer, answer]

    api.on_list = refuse
    async with following(api, seen):
        assert seen.events == [("ADDED", "a"), ("ADDED", "a")]
    assert len(api.listed) == 4
    assert len(api.pauses) == 3


async def test_an_empty_list_is_a_list() -> None:
    api = ScriptedApi([])
    async with following(api, Seen()) as reflector:
        assert reflector.synced.is_set()


async def test_a_silent_watch_is_left_and_goes_on() -> None:
    seen = Seen()
    said = line("ADDED", make_object("b", version=11))
    api = ScriptedApi([make_object("a")], watches=[Watch(said, silent=True), Watch(silent=True)])
    async with following(api, seen, silence_seconds=0.1):
        assert api.watched_from[:3] == ["10", "11", "11"]
    assert len(api.listed) == 1


def test_silence_is_noticed_within_70_seconds_and_not_taken_for_calm() -> None:
    """The API server sends a bookmark each minute, a second later at most."""
    assert 62 < reader_module.SILENCE_SECONDS <= 69


async def test_an_object_that_returns_under_its_name_is_another() -> None:
    """Its end was not told: the list that was made anew holds its successor already."""
    seen = Seen()
    api = ScriptedApi([make_object("chat-0", uid="first")])

    def change() -> None:
        if len(api.listed) == 2:
            api.objects = [make_object("chat-0", uid="second")]

    api.on_list = change
    late = line("DELETED", make_object("chat-0", uid="first", version=12))
    api.watches = [Watch(line("ERROR", {"code": 410})), Watch(late)]
    async with following(api, seen):
        assert seen.there == {"chat-0": "second"}
    assert seen.events == [("ADDED", "chat-0"), ("DELETED", "chat-0"), ("ADDED", "chat-0")]


async def test_one_object_that_cannot_be_taken_ends_nothing() -> None:
    seen = Seen()
    seen.raises_at = "b"
    api = ScriptedApi([make_object("a"), make_object("b"), {"metadata": {}}, {}, make_object("c")])  # type: ignore[list-item]
    async with following(api, seen) as reflector:
        assert set(seen.there) == {"a", "c"}
        assert reflector._metrics.untaken.labels("pods")._value.get() == 3


async def test_a_server_that_is_down_is_waited_for() -> None:
    api = ScriptedApi([make_object("a")])
    async with api.serve() as reader:
        pass
    reflector = Reflector(PODS, Seen(), make_metrics(), sleep=api.sleep)
    async with ApiReader(reader._access) as again:
        follow = asyncio.create_task(reflector.follow(again))
        async with asyncio.timeout(20):
            while len(api.pauses) < 3:
                await asyncio.sleep(0)
        assert not follow.done()
        assert not reflector.synced.is_set()
        follow.cancel()
