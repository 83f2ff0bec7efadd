"""Both clients mean the same by an answer."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from kubernetes.client import Configuration
from scripted_api import ScriptedApi
from spillway_operator.kube.client import ApiServer
from spillway_operator.kube.errors import ApiError, Conflict, Expired, NotFound, is_verdict, message_of
from spillway_operator.kube.reader import ApiReader
from spillway_operator.kube.resources import NODES, PODS

Read = Callable[[], Awaitable[Any]]


@pytest.fixture
def api() -> ScriptedApi:
    return ScriptedApi()


@pytest.fixture(params=["blocking", "reader"])
async def read_list(request: pytest.FixtureRequest, api: ScriptedApi) -> AsyncIterator[Read]:
    """A list of pods by either client."""

    async def read_pages(reader: ApiReader) -> list[Any]:
        return [item async for items, _ in reader.pages(PODS) for item in items]

    async with api.serve() as reader:
        if request.param == "reader":
            yield lambda: read_pages(reader)
            return
        configuration = Configuration()
        configuration.host = reader._access.url.rstrip("/")
        server = ApiServer(configuration)
        yield lambda: server.list(PODS)
        await server.close()


@pytest.mark.parametrize("body", [b"", b"null", b"[]", b"<html>", b"\xff"])
async def test_an_answer_that_is_no_object_is_an_error(read_list: Read, api: ScriptedApi, body: bytes) -> None:
    api.lists = [(200, body)]
    with pytest.raises(ApiError) as raised:
        await read_list()
    assert raised.value.status == 0


@pytest.mark.parametrize(
    ("status", "error"), [(403, ApiError), (404, NotFound), (409, Conflict), (410, Expired), (500, ApiError)]
)
async def test_a_refusal_is_told_by_its_status_and_in_its_words(
    read_list: Read, api: ScriptedApi, status: int, error: type[ApiError]
) -> None:
    api.lists = [(status, b'{"kind": "Status", "message": "because"}')]
    with pytest.raises(error, match="because") as raised:
        await read_list()
    assert raised.value.status == status
    assert type(raised.value) is error


@pytest.mark.parametrize(
    ("status", "message", "judges"),
    [
        (403, 'pods "x" is forbidden: exceeded quota: small', True),
        (422, "is invalid", True),
        (400, 'admission webhook "theirs" denied the request', True),
        (413, "request is too large", True),
        (403, 'User "s" cannot create resource "pods" in API group ""', False),
        (400, 'admission webhook "w" does not support dry run', False),
        *((status, "whatever", False) for status in (401, 404, 408, 409, 429, 500, 503)),
    ],
)
def test_a_refusal_of_the_asker_says_nothing_of_the_object(status: int, message: str, judges: bool) -> None:
    assert is_verdict(status, message) is judges


@pytest.mark.parametrize("raw", [b"[1]", b"7", b'"word"', b"null", b"", b"\xff", b'{"message": null}', b"x" * 5000])
def test_words_are_words_whatever_was_sent(raw: bytes) -> None:
    assert len(message_of(raw)) <= 500


def test_what_an_object_is_called_cannot_lead_elsewhere() -> None:
    assert PODS.path("team-a", "../../secrets") == "/api/v1/namespaces/team-a/pods/..%2F..%2Fsecrets"
    assert NODES.path(None, "node-1") == "/api/v1/nodes/node-1"
