"""Tell, of all objects of a kind, how they are and what becomes of them: a list, then a watch, and again when that breaks.

The one implementation of list and watch, for operator and webhook. What it is told of (`see`) gets every object of a list as ADDED, page
by page, then every change, then, after a list that had to be made anew, DELETED for whatever the list lacks: nobody else would say so.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import TypedDict

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge

from spillway_operator.kube.errors import ApiError, Expired
from spillway_operator.kube.reader import ApiReader, EventType, is_object
from spillway_operator.kube.resources import Manifest, Resource

FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 30.0
# A watch that ends sooner did not serve, whatever its end looked like: an answer that is empty would be asked for without pause.
SERVED_SECONDS = 5.0

Key = tuple[str, str]
log = structlog.get_logger()


class Event(TypedDict):
    """A change as the API server sends it. Of an object that is gone `metadata` may be all there is."""

    type: EventType
    object: Manifest


@dataclass(frozen=True)
class WatchMetrics:
    """Where a process counts, by kind: objects that are there, watches that broke, objects that `see` could not take."""

    objects: Gauge
    restarts: Counter
    untaken: Counter

    @classmethod
    def declare(cls, prefix: str, objects: str, registry: CollectorRegistry) -> WatchMetrics:
        """Declare the three under `<prefix>_`, the first as `<prefix>_<objects>`."""

        def name(what: str) -> str:
            return f"{prefix}_{what}"

        return cls(
            Gauge(name(objects), "Objects that are followed, by kind.", ["kind"], registry=registry),
            Counter(
                name("watch_restarts"), "Watches that broke and were begun anew, by kind.", ["kind"], registry=registry
            ),
            Counter(
                name("untaken_objects"),
                "Objects that were sent and could not be understood, by kind.",
                ["kind"],
                registry=registry,
            ),
        )


def object_key(manifest: Manifest) -> Key:
    """(namespace, name); the namespace of a cluster-scoped object is empty."""
    metadata = manifest["metadata"]
    return metadata.get("namespace", ""), metadata["name"]


class Reflector:
    """Follows one kind. It remembers which objects there are by name and uid, and of what they say nothing."""

    def __init__(
        self,
        resource: Resource,
        see: Callable[[Event], None],
        metrics: WatchMetrics,
        *,
        label_selector: str = "",
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._resource = resource
        self._see = see
        self._metrics = metrics
        self._label_selector = label_selector
        self._sleep = sleep
        self._uids: dict[Key, str] = {}
        # From which version the watch goes on; empty: list anew.
        self._resource_version = ""
        self.synced = asyncio.Event()
        """Set once the first list is in."""

    async def follow(self, api: ApiReader) -> None:
        """List, then watch, and start again when that ends. Returns never; errors are counted and waited out."""
        pause_seconds = FIRST_PAUSE_SECONDS
        while True:
            started_at = time.monotonic()
            reason = "the watch ended at once"
            try:
                if not self._resource_version:
                    await self._list(api)
                    started_at = time.monotonic()
                await self._watch(api)
            except Expired as error:
                self._resource_version, reason = "", str(error)
            except ApiError as error:
                reason = str(error)
            if time.monotonic() - started_at >= SERVED_SECONDS:
                pause_seconds = FIRST_PAUSE_SECONDS
                if self._resource_version:
                    continue  # a watch ends after some minutes, and goes on where it ended
            log.warning("watch interrupted", kind=self._resource.kind, reason=reason)
            self._metrics.restarts.labels(self._resource.plural).inc()
            await self._sleep(random.uniform(0.5, 1.0) * pause_seconds)
            pause_seconds = min(2 * pause_seconds, LONGEST_PAUSE_SECONDS)

    async def _list(self, api: ApiReader) -> None:
        listed: set[Key] = set()
        listed_at = ""
        async with aclosing(api.pages(self._resource, label_selector=self._label_selector)) as pages:
            async for items, version in pages:
                for manifest in items:
                    if not is_object(manifest):
                        self._metrics.untaken.labels(self._resource.plural).inc()
                        continue
                    listed.add(object_key(manifest))
                    self._take("ADDED", manifest)
                listed_at = version
        for key in self._uids.keys() - listed:
            self._lose(key, listed_at)
        self._resource_version = listed_at
        self._count()
        self.synced.set()

    async def _watch(self, api: ApiReader) -> None:
        changes = api.watch(self._resource, self._resource_version, label_selector=self._label_selector)
        async with aclosing(changes):
            async for kind, manifest in changes:
                if kind != "BOOKMARK":
                    self._take(kind, manifest)
                    self._count()
                self._resource_version = manifest["metadata"]["resourceVersion"]

    def _take(self, kind: EventType, manifest: Manifest) -> None:
        key, uid = object_key(manifest), manifest["metadata"]["uid"]
        known = self._uids.get(key)
        if kind == "DELETED":
            if known is not None and known != uid:
                return  # of one before, whose end is known; its name is another's
            self._uids.pop(key, None)
        else:
            if known is not None and known != uid:
                self._lose(key, manifest["metadata"]["resourceVersion"])
            self._uids[key] = uid
        self._tell(Event(type=kind, object=manifest))

    def _lose(self, key: Key, version: str) -> None:
        """Tell of an end that no watch told of."""
        namespace, name = key
        metadata = {"name": name, "uid": self._uids.pop(key), "resourceVersion": version}
        if namespace:
            metadata["namespace"] = namespace
        self._tell(Event(type="DELETED", object={"metadata": metadata}))

    def _tell(self, event: Event) -> None:
        try:
            self._see(event)
        except Exception:  # the named edge: one odd object must not end the watch for all others
            self._metrics.untaken.labels(self._resource.plural).inc()
            log.exception("object not taken", kind=self._resource.kind, key=object_key(event["object"]))

    def _count(self) -> None:
        self._metrics.objects.labels(self._resource.plural).set(len(self._uids))
