"""Which StorageClasses there are, asked at most every half minute for each name: a pool's reconcile runs for every change of a pod."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from spillway_operator.kube.client import ApiServer
from spillway_operator.kube.resources import STORAGE_CLASSES

ASKED_EVERY_SECONDS: Final = 30.0
# Names come from pools, which tenants write.
MAX_REMEMBERED: Final = 1024


class StorageClasses:
    """Remembers what is there; what is absent is asked for each time, so that a class that is made counts at once."""

    def __init__(self, api: ApiServer, clock: Callable[[], float] = time.monotonic) -> None:
        self._api = api
        self._clock = clock
        self._seen_at: dict[str, float] = {}

    async def exists(self, name: str) -> bool:
        """Raises ApiError."""
        now = self._clock()
        seen_at = self._seen_at.get(name)
        if seen_at is not None and now - seen_at < ASKED_EVERY_SECONDS:
            return True
        self._seen_at.pop(name, None)
        if await self._api.get(STORAGE_CLASSES, name) is None:
            return False
        while len(self._seen_at) >= MAX_REMEMBERED:
            del self._seen_at[next(iter(self._seen_at))]
        self._seen_at[name] = now
        return True
