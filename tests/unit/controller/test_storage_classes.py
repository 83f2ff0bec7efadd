"""A class that is there is not asked for at every reconcile; one that is not counts as soon as it is made."""

from __future__ import annotations

from memory_api import MemoryApi
from spillway_operator.controller.storage_classes import ASKED_EVERY_SECONDS, StorageClasses
from spillway_operator.kube.resources import STORAGE_CLASSES, Manifest, Resource

from tests.unit.clock import Clock


class CountingApi(MemoryApi):
    asked = 0

    async def get(self, resource: Resource, name: str, namespace: str | None = None) -> Manifest | None:
        self.asked += 1
        return await super().get(resource, name, namespace)


async def test_what_is_there_is_asked_for_every_half_minute() -> None:
    api, clock = CountingApi(), Clock()
    classes = StorageClasses(api, clock)
    api.put(STORAGE_CLASSES, {"metadata": {"name": "fast"}})
    for _ in range(5):
        assert await classes.exists("fast")
    assert api.asked == 1
    api.drop(STORAGE_CLASSES, "fast")
    clock.now += ASKED_EVERY_SECONDS
    assert not await classes.exists("fast")


async def test_what_is_made_counts_at_once() -> None:
    api = CountingApi()
    classes = StorageClasses(api, Clock())
    assert not await classes.exists("fast")
    api.put(STORAGE_CLASSES, {"metadata": {"name": "fast"}})
    assert await classes.exists("fast")
