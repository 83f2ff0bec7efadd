"""Gather the facts for one pod: from the watch caches, and by one live read of what they do not hold yet.

Pool and workload often come in one file: the pod is then admitted before the watch has told of the pool.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping
from dataclasses import dataclass

from spillway.config import ConfigError

from spillway_operator.api import Fault, KVCachePool, UserClaim, claim_user, find_user_fault, parse_pool
from spillway_operator.injection import NAMESPACE_ANNOTATIONS, Facts, Pod
from spillway_operator.injection.http_port import DRAWN_PORTS
from spillway_operator.kube.cache import WatchCache
from spillway_operator.kube.errors import ApiError
from spillway_operator.kube.reader import ApiReader
from spillway_operator.kube.resources import LIMIT_RANGES, NAMESPACES, POOLS, Manifest
from spillway_operator.webhook.admissible import Turns, find_refusal, is_admitted
from spillway_operator.webhook.files import StatusKeys
from spillway_operator.webhook.metrics import LIVE_READS, WATCHES
from spillway_operator.webhook.settings import WebhookSettings

# A watch is milliseconds behind; the API server waits 5 s for us.
CATCH_UP_SECONDS = 2.0
CATCH_UP_LOOK_SECONDS = 0.02


@dataclass(frozen=True)
class KnownPool:
    """A pool as the models read it, or why they could not, and the user that it claims; nothing where there is none."""

    pool: KVCachePool | None = None
    fault: str = ""
    claim: UserClaim | None = None


def _project_pool(manifest: Manifest) -> KnownPool:
    try:
        return KnownPool(parse_pool(manifest), claim=claim_user(manifest))
    except ConfigError as error:
        return KnownPool(fault=str(error), claim=claim_user(manifest))


@dataclass(frozen=True)
class KnownNamespace:
    """A namespace's labels, and of its annotations those that injection asks for."""

    labels: Mapping[str, str]
    annotations: Mapping[str, str]


def _project_namespace(manifest: Manifest) -> KnownNamespace:
    metadata = manifest["metadata"]
    annotations = metadata.get("annotations") or {}
    return KnownNamespace(
        labels=metadata.get("labels") or {},
        annotations={name: annotations[name] for name in NAMESPACE_ANNOTATIONS if name in annotations},
    )


def _project_limits(manifest: Manifest) -> Mapping[str, object]:
    return {"metadata": {"name": manifest["metadata"]["name"]}, "spec": manifest.get("spec") or {}}


class Cluster:
    """The cluster as the webhook knows it."""

    def __init__(self, api: ApiReader, settings: WebhookSettings, keys: StatusKeys) -> None:
        self._api = api
        self._settings = settings
        self._keys = keys
        self._turns = Turns()
        self._pools = WatchCache(POOLS, _project_pool, WATCHES)
        self._namespaces = WatchCache(NAMESPACES, _project_namespace, WATCHES)
        self._limit_ranges = WatchCache(LIMIT_RANGES, _project_limits, WATCHES)

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
        """The facts for a pod of `namespace` that names `pool_name`. Raises ApiError if a live read failed."""
        known, place = await asyncio.gather(self._pool(namespace, pool_name), self._namespace(namespace))
        return Facts(
            pool=known.pool,
            pool_fault=known.fault,
            user_fault=self._user_fault(known),
            allowed=self._settings.allowed,
            namespace_labels=place.labels,
            namespace_annotations=place.annotations,
            limit_ranges=self._limit_ranges.within(namespace),
            status_public_keys=self._keys.current,
            pull_policy=self._settings.sidecar_pull_policy,
            drawn_port=secrets.choice(DRAWN_PORTS),
        )

    async def find_refusal(self, namespace: str, injected: Pod, plain: Pod, *, budget_seconds: float) -> str | None:
        """The API server's words where it refuses the injected pod and not the plain one, and says so in time."""
        return await find_refusal(self._api, self._turns, namespace, injected, plain, budget_seconds=budget_seconds)

    async def is_admitted(self, namespace: str, injected: Pod, spent_seconds: float, *, budget_seconds: float) -> bool:
        """Whether the API server says, in what `spent_seconds` left of the budget, that it takes the injected pod."""
        left_seconds = budget_seconds - spent_seconds
        return await is_admitted(self._api, self._turns, namespace, injected, budget_seconds=left_seconds)

    async def _pool(self, namespace: str, name: str) -> KnownPool:
        known = self._pools.find(name, namespace)
        if known is not None or not name:
            return known or KnownPool()
        LIVE_READS.labels(POOLS.plural).inc()
        manifest = await self._api.get(POOLS, name, namespace)
        # Not put into the cache: an older answer must not overwrite what the watch may tell meanwhile.
        found = KnownPool() if manifest is None else _project_pool(manifest)
        if found.claim is not None and found.claim.named:
            await self._catch_up(name, namespace)
        return found

    async def _catch_up(self, name: str, namespace: str) -> None:
        """Wait until the watch tells of that pool: then it has told of all that were made before, whose user it may name."""
        try:
            async with asyncio.timeout(CATCH_UP_SECONDS):
                while self._pools.find(name, namespace) is None:
                    await asyncio.sleep(CATCH_UP_LOOK_SECONDS)
        except TimeoutError as error:
            message = f"the watch of pools did not tell of it in {CATCH_UP_SECONDS} s"
            raise ApiError(0, "WATCH", POOLS.path(namespace, name), message) from error

    def _user_fault(self, known: KnownPool) -> Fault | None:
        if known.claim is None:
            return None
        return find_user_fault(known.claim, (other.claim for other in self._pools.entries() if other.claim is not None))

    async def _namespace(self, namespace: str) -> KnownNamespace:
        known = self._namespaces.find(namespace)
        if known is not None:
            return known
        LIVE_READS.labels(NAMESPACES.plural).inc()
        manifest = await self._api.get(NAMESPACES, namespace)
        return KnownNamespace({}, {}) if manifest is None else _project_namespace(manifest)
