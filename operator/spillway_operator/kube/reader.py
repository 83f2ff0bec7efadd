"""Lists, watches, single reads and dry runs as coroutines, over HTTP and without a client library. Nothing is stored by it.

The webhook has no other client; the operator lists and watches by it and writes by `client`.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping
from types import TracebackType
from typing import Any, Literal, cast

import aiohttp
from aiohttp.http_exceptions import HttpProcessingError

from spillway_operator.kube.access import Access
from spillway_operator.kube.errors import (
    MAX_MESSAGE_CHARACTERS,
    ApiError,
    Expired,
    NotFound,
    error_of,
    is_verdict,
    message_of,
    parse_object,
)
from spillway_operator.kube.resources import Manifest, Resource

GET_TIMEOUT_SECONDS = 1.0
LIST_TIMEOUT_SECONDS = 30.0
# A page is parsed in one piece, while nothing else runs: 1 MiB takes some 20 ms, whatever the size of one object.
PAGE_BYTES = 1024 * 1024
FIRST_PAGE = 50
LONGEST_PAGE = 500
# The API server ends a watch after this long; it is then resumed where it ended.
WATCH_SECONDS = 300
# The API server sends a bookmark each minute (bookmarkFrequency of its watch cache), so that silence is told from calm.
SILENCE_SECONDS = 67.0
CONNECT_SECONDS = 5.0
# One line of a watch is one object: the API server's own limit of an object is 1.5 MiB (etcd), with room for escapes.
MAX_EVENT_BYTES = 4 * 1024 * 1024

EventType = Literal["ADDED", "MODIFIED", "DELETED", "BOOKMARK"]
_KNOWN_TYPES = ("ADDED", "MODIFIED", "DELETED", "BOOKMARK")


class ApiReader:
    """Use it as an async context manager. `silence_seconds` is how long a watch may say nothing."""

    def __init__(self, access: Access, *, silence_seconds: float = SILENCE_SECONDS) -> None:
        self._access = access
        self._silence_seconds = silence_seconds
        connector = aiohttp.TCPConnector(ssl=access.tls, limit=64)
        self._session = aiohttp.ClientSession(
            base_url=access.url,
            connector=connector,
            timeout=aiohttp.ClientTimeout(total=None),
            read_bufsize=MAX_EVENT_BYTES,
        )

    async def __aenter__(self) -> ApiReader:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def get(self, resource: Resource, name: str, namespace: str | None = None) -> Manifest | None:
        """The object, None if there is none. Gives up after 1 s. Raises ApiError."""
        try:
            path = resource.path(namespace, name)
            return parse_object("GET", path, await self._read(path, {}, GET_TIMEOUT_SECONDS))
        except NotFound:
            return None

    async def pages(
        self, resource: Resource, *, label_selector: str = ""
    ) -> AsyncGenerator[tuple[list[Manifest], str], None]:
        """All objects page by page, each with the version of the list, from which to watch once the last page is there.

        Pages are made as long as 1 MiB holds, so that no one of them keeps the event loop. Raises ApiError, of which Expired
        where the list took so long that it cannot be continued.
        """
        path = resource.path()
        query = {"limit": str(FIRST_PAGE), **({"labelSelector": label_selector} if label_selector else {})}
        while True:
            body = await self._read(path, query, LIST_TIMEOUT_SECONDS)
            page = parse_object("GET", path, body)
            metadata, items = page.get("metadata"), page.get("items") or []
            if not isinstance(metadata, dict) or not metadata.get("resourceVersion") or not isinstance(items, list):
                raise error_of(0, "GET", path, "the answer is no list")
            yield items, str(metadata["resourceVersion"])
            if not metadata.get("continue"):
                return
            query["continue"] = str(metadata["continue"])
            query["limit"] = str(_next_limit(int(query["limit"]), len(items), len(body)))

    async def watch(
        self, resource: Resource, resource_version: str, *, label_selector: str = ""
    ) -> AsyncGenerator[tuple[EventType, Manifest], None]:
        """Changes after `resource_version` as (type, object), bookmarks included, until the server ends the watch.

        Raises Expired where it cannot be resumed: the version is too old, or the server sent an error or what is no event in
        place of a change. Raises another ApiError where it can: the server is busy, breaks off or says nothing for
        `silence_seconds`.
        """
        path = resource.path()
        query = {
            "watch": "1",
            "resourceVersion": resource_version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(WATCH_SECONDS),
            **({"labelSelector": label_selector} if label_selector else {}),
        }
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=self._silence_seconds)
        try:
            async with self._session.get(path, params=query, headers=self._headers(), timeout=timeout) as response:
                if response.status != 200:
                    raise error_of(response.status, "WATCH", path, message_of(await response.read()))
                try:
                    async for line in response.content:
                        if line.strip():
                            yield _parse_event(path, line)
                finally:
                    _abort(response)
        except (aiohttp.ClientError, OSError) as error:
            raise error_of(0, "WATCH", path, repr(error)) from error
        except (ValueError, HttpProcessingError) as error:  # a line that is longer than an object can be
            raise Expired(0, "WATCH", path, str(error)) from error

    async def dry_run(self, resource: Resource, namespace: str, manifest: Manifest) -> str | None:
        """Why a creation of the object would be refused, in the API server's own words; None: it would not. Stores nothing.

        Raises ApiError where the answer is neither: the account may not ask, an admission webhook takes no dry runs.
        The caller bounds the time.
        """
        path = resource.path(namespace)
        try:
            async with self._session.post(
                path, params={"dryRun": "All"}, headers=self._headers(), json=manifest
            ) as response:
                if response.status < 300:
                    return None
                words = message_of(await response.read())
                if not is_verdict(response.status, words):
                    raise error_of(response.status, "POST", path, words)
                return words
        except (aiohttp.ClientError, OSError) as error:
            raise error_of(0, "POST", path, repr(error)) from error

    async def _read(self, path: str, query: Mapping[str, str], timeout_seconds: float) -> bytes:
        timeout = aiohttp.ClientTimeout(total=timeout_seconds)
        try:
            async with self._session.get(path, params=query, headers=self._headers(), timeout=timeout) as response:
                body = await response.read()
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise error_of(0, "GET", path, repr(error)) from error
        if response.status != 200:
            raise error_of(response.status, "GET", path, message_of(body))
        return body

    def _headers(self) -> dict[str, str]:
        token = self._access.token()
        return {"Accept": "application/json", **({"Authorization": f"Bearer {token}"} if token else {})}


def _parse_event(path: str, line: bytes) -> tuple[EventType, Manifest]:
    try:
        event = json.loads(line)
        kind, manifest = event["type"], event["object"]
        if kind == "ERROR":
            raise _error_event(path, manifest)
        # A bookmark is about no object.
        needed = ("resourceVersion",) if kind == "BOOKMARK" else ("resourceVersion", "name", "uid")
        whole = kind in _KNOWN_TYPES and _names(manifest, *needed)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Expired(0, "WATCH", path, f"{error!r} in {line[:200]!r}") from error
    if not whole:
        raise Expired(0, "WATCH", path, f"no event: {line[:200]!r}")
    return cast(EventType, kind), cast(Manifest, manifest)


def is_object(manifest: object) -> bool:
    """Whether a list's item says at least which object it is."""
    try:
        return _names(cast(Manifest, manifest), "name", "uid")
    except (KeyError, TypeError, AttributeError):
        return False


def _names(manifest: Manifest, *fields: str) -> bool:
    metadata = manifest["metadata"]
    # Their types only: whether they are of any use is for whoever is told.
    return all(isinstance(metadata.get(name), str) for name in fields) and isinstance(
        metadata.get("namespace", ""), str
    )


def _error_event(path: str, status: Mapping[str, Any]) -> ApiError:
    """Whatever its code: a change may be lost with it, so the watch is not resumed. Unless it only asks for patience."""
    code, message = status.get("code"), str(status.get("message", ""))[:MAX_MESSAGE_CHARACTERS]
    if code == 429:
        return error_of(code, "WATCH", path, message)
    return Expired(code if isinstance(code, int) else 0, "WATCH", path, message)


def _next_limit(limit: int, items: int, body_bytes: int) -> int:
    if not items or not body_bytes:
        return limit
    return max(1, min(LONGEST_PAGE, PAGE_BYTES * items // body_bytes))


def _abort(response: aiohttp.ClientResponse) -> None:
    """Drop the connection of a stream that is left unread: its orderly end would wait for the other side's, past our own."""
    connection = response.connection
    if connection is not None and connection.transport is not None:
        connection.transport.abort()
