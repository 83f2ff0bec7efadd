"""The controller as a whole: watch events in, keys through the queue, reconciles out.

`Controller` is what handlers.py talks to. `start` fills the observation with one full list before anything is decided,
so that a restart writes nothing; the list is repeated every 10 minutes, because a watch can lose a deletion.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import structlog

from spillway_operator.api import claim_user
from spillway_operator.api.names import POOL_LABEL
from spillway_operator.controller.breaker_events import BreakerReporter
from spillway_operator.controller.certificates import ensure_webhook_trust
from spillway_operator.controller.client import CONFIG_MAPS, PODS, POOLS, ApiError, ApiServer
from spillway_operator.controller.deletion import PoolDeletion
from spillway_operator.controller.disk import DiskCleaner
from spillway_operator.controller.members import MemberReader
from spillway_operator.controller.observed import Observed, PoolKey, key_of
from spillway_operator.controller.reconcile import Reconciler
from spillway_operator.controller.settings import WEBHOOK_CONFIGURATION, WEBHOOK_SERVICE, OperatorSettings
from spillway_operator.controller.skips import SkipReporter
from spillway_operator.controller.status_keys import StatusSigner, ensure_signer
from spillway_operator.controller.storage_classes import StorageClasses
from spillway_operator.controller.stuck_pods import StuckPods
from spillway_operator.controller.webhook_health import WebhookHealth
from spillway_operator.controller.work_queue import WorkQueue

RELIST_EVERY_SECONDS = 600.0
CERTIFICATES_EVERY_SECONDS = 60.0
WORKERS = 16

Event = Mapping[str, Any]

log = structlog.get_logger()


class Controller:
    """Wires the parts together. Lives in the one active process, after its Lease is won."""

    def __init__(self, api: ApiServer, settings: OperatorSettings, signer: StatusSigner) -> None:
        self._api = api
        self._settings = settings
        self._observed = Observed()
        self._seen_meanwhile: list[tuple[Callable[[Event], None], Event]] | None = None
        self._skips = SkipReporter(api)
        self._stuck = StuckPods(api)
        members = MemberReader(signer, self._observed.injected_pods, self._add)
        self._members = members
        self._webhook = WebhookHealth(
            api,
            settings.namespace,
            WEBHOOK_SERVICE,
            WEBHOOK_CONFIGURATION,
            settings.control_image,
            find_namespaces=lambda: {key.namespace for key in self._observed.pools()},
            on_change=self._add_all,
        )
        deletion = PoolDeletion(api, self._observed, settings, DiskCleaner(api, settings))
        self._reconciler = Reconciler(
            api,
            self._observed,
            members,
            self._webhook,
            settings,
            self._skips,
            deletion,
            StorageClasses(api),
            self._stuck,
            BreakerReporter(api),
        )
        self._queue: WorkQueue[PoolKey] = WorkQueue(self._reconciler.reconcile, workers=WORKERS, expected=(ApiError,))

    @classmethod
    async def start(cls, api: ApiServer, settings: OperatorSettings) -> Controller:
        """Make keys and certificates if they are missing, look at the webhook, list everything once."""
        signer = await ensure_signer(api, settings.namespace)
        controller = cls(api, settings, signer)
        await controller._renew_certificates()
        await controller._webhook.look()
        await controller._relist()
        return controller

    async def run(self) -> None:
        """Work until cancelled; any part that ends takes the others with it."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._queue.run())
            group.create_task(self._members.run())
            group.create_task(self._webhook.run())
            group.create_task(_repeat(self._relist, RELIST_EVERY_SECONDS))
            group.create_task(_repeat(self._renew_certificates, CERTIFICATES_EVERY_SECONDS))

    def see_pool(self, event: Event) -> None:
        """Take one watch event of a pool."""
        self._note(self.see_pool, event)
        is_gone = event["type"] == "DELETED"
        # A pool that goes gives its user to the next one, and a pool that comes may have been made before its holder. Of those
        # that want one user no others change: whoever makes a thousand of them costs a thousand looks, not a million.
        known = self._observed.claim(key_of(event["object"]))
        users = {claim_user(event["object"]).user, *(() if known is None else (known.user,))}
        before = {self._observed.user_holder(user) for user in users}
        key = (self._observed.drop_pool if is_gone else self._observed.put_pool)(event["object"])
        for touched in {key, *before, *map(self._observed.user_holder, users)}:
            if touched is not None:
                self._add(touched)

    def see_config_map(self, event: Event) -> None:
        """Take one watch event of a pool's ConfigMap."""
        self._note(self.see_config_map, event)
        is_gone = event["type"] == "DELETED"
        self._add((self._observed.drop_config_map if is_gone else self._observed.put_config_map)(event["object"]))

    def see_pod(self, event: Event) -> None:
        """Take one watch event of a labelled pod."""
        self._note(self.see_pod, event)
        uid = event["object"]["metadata"]["uid"]
        if event["type"] == "DELETED":
            self._skips.forget(uid)
            self._stuck.forget(uid)
            touched = self._observed.drop_pod(uid)
        else:
            touched = self._observed.put_pod(event["object"])
        for key in touched:
            self._add(key)

    def _note(self, see: Callable[[Event], None], event: Event) -> None:
        if self._seen_meanwhile is not None:
            self._seen_meanwhile.append((see, event))

    def _add(self, key: PoolKey) -> None:
        self._queue.add(key)

    def _add_all(self) -> None:
        for key in self._observed.pools():
            self._queue.add(key)

    async def _relist(self) -> None:
        """List everything anew. What the watches see until the lists are here may be newer, so it is seen once more:

        the lists would bring back a pod that ended meanwhile, and lose one that began, until the next time.
        """
        self._seen_meanwhile = []
        try:
            pools = await self._api.list(POOLS)
            pods = await self._api.list(PODS, label_selector=POOL_LABEL)
            config_maps = await self._api.list(CONFIG_MAPS, label_selector=POOL_LABEL)
        finally:
            meanwhile, self._seen_meanwhile = self._seen_meanwhile, None
        for key in self._observed.replace_all(pools, pods, config_maps):
            self._queue.add(key)
        for see, event in meanwhile:
            see(event)

    async def _renew_certificates(self) -> None:
        service = f"{WEBHOOK_SERVICE}.{self._settings.namespace}.svc"
        await ensure_webhook_trust(self._api, self._settings.namespace, WEBHOOK_CONFIGURATION, (service,))


async def _repeat(work: Any, every_seconds: float) -> None:
    while True:
        await asyncio.sleep(every_seconds)
        try:
            await work()
        except ApiError as error:
            log.warning("periodic work will be tried again", work=work.__name__, reason=str(error))
