"""Watch caches: what the webhook knows of pools, namespaces and LimitRanges without asking.

One cache per kind follows a list and then a watch, for ever. An API server that cannot be reached leaves the last known
state in place: an old answer is better than none, because none would start the pod without its cache.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

import structlog

from spillway_operator.webhook.api_server import ApiServer, ApiServerError, Kind, Manifest, WatchExpired
from spillway_operator.webhook.metrics import CACHED_OBJECTS, WATCH_RESTARTS

FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 30.0

Key = tuple[str, str]
Entry = TypeVar("Entry")
log = structlog.get_logger()


def object_key(manifest: Manifest) -> Key:
    """(namespace, name); the namespace of a cluster-scoped object is empty."""
    metadata = manifest["metadata"]
    return metadata.get("namespace", ""), metadata["name"]


class WatchCache(Generic[Entry]):
    """Objects of one kind as `project` makes them. Not thread-safe: use it from the event loop only."""

    def __init__(self, kind: Kind, project: Callable[[Manifest], Entry]) -> None:
        self._kind = kind
        self._project = project
        self._entries: dict[str, dict[str, Entry]] = {}
        self._resource_version = ""
        self.synced = asyncio.Event()
        """Set once the first list is in."""

    def find(self, name: str, namespace: str = "") -> Entry | None:
        """The object, None if it is not known."""
        return self._entries.get(namespace, {}).get(name)

    def within(self, namespace: str) -> tuple[Entry, ...]:
        """All objects of a namespace."""
        return tuple(self._entries.get(namespace, {}).values())

    def entries(self) -> Iterator[Entry]:
        """All objects."""
        return itertools.chain.from_iterable(siblings.values() for siblings in self._entries.values())

    def put(self, manifest: Manifest) -> Entry:
        """Take in an object."""
        namespace, name = object_key(manifest)
        entry = self._project(manifest)
        self._entries.setdefault(namespace, {})[name] = entry
        return entry

    async def follow(self, api: ApiServer) -> None:
        """List, then watch, and start again when that ends. Returns never; errors are counted and waited out."""
        pause_seconds = FIRST_PAUSE_SECONDS
        while True:
            try:
                await self._follow_once(api)
                pause_seconds = FIRST_PAUSE_SECONDS
                continue
            except WatchExpired:
                self._resource_version = ""
            except ApiServerError as error:
                log.warning("watch interrupted", reason=str(error))
            WATCH_RESTARTS.labels(self._kind.plural).inc()
            await asyncio.sleep(random.uniform(0.5, 1.0) * pause_seconds)
            pause_seconds = min(2 * pause_seconds, LONGEST_PAUSE_SECONDS)

    async def _follow_once(self, api: ApiServer) -> None:
        if not self._resource_version:
            items, self._resource_version = await api.list(self._kind)
            self._replace(items)
            self.synced.set()
        async for event, manifest in api.watch(self._kind, self._resource_version):
            self._take(event, manifest)
            self._resource_version = manifest["metadata"]["resourceVersion"]
            CACHED_OBJECTS.labels(self._kind.plural).set(sum(map(len, self._entries.values())))

    def _replace(self, items: Iterable[Manifest]) -> None:
        self._entries = {}
        for manifest in items:
            self.put(manifest)
        CACHED_OBJECTS.labels(self._kind.plural).set(sum(map(len, self._entries.values())))

    def _take(self, event: str, manifest: Manifest) -> None:
        if event == "BOOKMARK":
            return
        if event != "DELETED":
            self.put(manifest)
            return
        namespace, name = object_key(manifest)
        siblings = self._entries.get(namespace, {})
        siblings.pop(name, None)
        if not siblings:
            self._entries.pop(namespace, None)
