"""Gather the facts for one pod: from the watch caches, and by one live read of what they do not hold yet.

Pool and workload often come in one file: the pod is then admitted before the watch has told of the pool.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from spillway.config import ConfigError

from spillway_operator.api import KVCachePool, parse_pool
from spillway_operator.injection import Facts
from spillway_operator.webhook.api_server import LIMIT_RANGES, NAMESPACES, POOLS, ApiServer, Manifest
from spillway_operator.webhook.cache import WatchCache
from spillway_operator.webhook.files import StatusKeys
from spillway_operator.webhook.metrics import LIVE_READS
from spillway_operator.webhook.settings import WebhookSettings


@dataclass(frozen=True)
class KnownPool:
    """A pool as the models read it, or why they could not."""

    pool: KVCachePool | None
    fault: str = ""


def _project_pool(manifest: Manifest) -> KnownPool:
    try:
        return KnownPool(parse_pool(manifest))
    except ConfigError as error:
        return KnownPool(None, str(error))


def _project_labels(manifest: Manifest) -> Mapping[str, str]:
    return manifest["metadata"].get("labels") or {}


def _project_limits(manifest: Manifest) -> Mapping[str, object]:
    return {"metadata": {"name": manifest["metadata"]["name"]}, "spec": manifest.get("spec") or {}}


class Cluster:
    """The cluster as the webhook knows it."""

    def __init__(self, api: ApiServer, settings: WebhookSettings, keys: StatusKeys) -> None:
        self._api = api
        self._settings = settings
        self._keys = keys
        self._pools = WatchCache(POOLS, _project_pool)
        self._namespaces = WatchCache(NAMESPACES, _project_labels)
        self._limit_ranges = WatchCache(LIMIT_RANGES, _project_limits)

    @property
    def ready(self) -> bool:
        """Whether every cache holds its first list and a status key is known."""
        caches = (self._pools, self._namespaces, self._limit_ranges)
        return all(cache.synced.is_set() for cache in caches) and bool(self._keys.current)

    async def follow(self) -> None:
        """Keep the caches; returns never."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._pools.follow(self._api))
            tasks.create_task(self._namespaces.follow(self._api))
            tasks.create_task(self._limit_ranges.follow(self._api))

    async def gather(self, namespace: str, pool_name: str) -> Facts:
        """The facts for a pod of `namespace` that names `pool_name`. Raises ApiServerError if a live read failed."""
        known, labels = await asyncio.gather(self._pool(namespace, pool_name), self._labels(namespace))
        return Facts(
            pool=known.pool,
            pool_fault=known.fault,
            allowed=self._settings.allowed,
            namespace_labels=labels,
            limit_ranges=self._limit_ranges.within(namespace),
            status_public_keys=self._keys.current,
            pull_policy=self._settings.sidecar_pull_policy,
        )

    async def _pool(self, namespace: str, name: str) -> KnownPool:
        known = self._pools.find(name, namespace)
        if known is not None or not name:
            return known or KnownPool(None)
        LIVE_READS.labels(POOLS.plural).inc()
        manifest = await self._api.get(POOLS, name, namespace)
        # Not put into the cache: an older answer must not overwrite what the watch may tell meanwhile.
        return KnownPool(None) if manifest is None else _project_pool(manifest)

    async def _labels(self, namespace: str) -> Mapping[str, str]:
        known = self._namespaces.find(namespace)
        if known is not None:
            return known
        LIVE_READS.labels(NAMESPACES.plural).inc()
        manifest = await self._api.get(NAMESPACES, namespace)
        return {} if manifest is None else _project_labels(manifest)
