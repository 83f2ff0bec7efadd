"""Objects of one kind as somebody needs them, kept current by a Reflector.

An API server that cannot be reached leaves the last known state in place: an old answer is better than none.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from spillway_operator.kube.reader import ApiReader
from spillway_operator.kube.reflector import Event, Reflector, WatchMetrics, object_key
from spillway_operator.kube.resources import Manifest, Resource

Entry = TypeVar("Entry")


class WatchCache(Generic[Entry]):
    """Objects of one kind as `project` makes them. Not thread-safe: use it from the event loop only."""

    def __init__(self, resource: Resource, project: Callable[[Manifest], Entry], metrics: WatchMetrics) -> None:
        self._project = project
        self._entries: dict[str, dict[str, Entry]] = {}
        self._reflector = Reflector(resource, self._see, metrics)

    @property
    def synced(self) -> asyncio.Event:
        """Set once the first list is in."""
        return self._reflector.synced

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

    async def follow(self, api: ApiReader) -> None:
        """Keep current; returns never."""
        await self._reflector.follow(api)

    def _see(self, event: Event) -> None:
        if event["type"] != "DELETED":
            self.put(event["object"])
            return
        namespace, name = object_key(event["object"])
        siblings = self._entries.get(namespace, {})
        siblings.pop(name, None)
        if not siblings:
            self._entries.pop(namespace, None)
