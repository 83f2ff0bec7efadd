"""The controller as a whole: watch events in, keys through the queue, reconciles out.

Nothing is decided before the first lists are in, so that a restart writes nothing. Every 10 minutes each pool is looked at once more,
whatever happened to it: what nobody tells of is found then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import structlog

from spillway_operator.api import claim_user
from spillway_operator.api.names import POOL_LABEL
from spillway_operator.controller.breaker_events import BreakerReporter
from spillway_operator.controller.census import serve_census
from spillway_operator.controller.certificates import ensure_webhook_trust
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
from spillway_operator.kube.client import ApiServer
from spillway_operator.kube.errors import ApiError
from spillway_operator.kube.reader import ApiReader
from spillway_operator.kube.reflector import Event, Reflector
from spillway_operator.kube.resources import CONFIG_MAPS, PODS, POOLS
from spillway_operator.metrics import LOOP_STALL_SECONDS, WATCHES, WEBHOOK_PROBLEMS
from spillway_operator.stalls import watch_stalls

RESYNC_EVERY_SECONDS = 600.0
CERTIFICATES_EVERY_SECONDS = 60.0
WORKERS = 16
# What comes within so long is looked at once: a look costs milliseconds in a pool of 500 pods, of which 50 report in a second.
PODS_TOGETHER_SECONDS = 0.5
REPORTS_TOGETHER_SECONDS = 1.0

log = structlog.get_logger()


class Controller:
    """Wires the parts together. Lives in the one active process, after its Lease is won."""

    def __init__(
        self,
        api: ApiServer,
        settings: OperatorSettings,
        signer: StatusSigner,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._api = api
        self._settings = settings
        self._observed = Observed()
        self._watches = (
            Reflector(POOLS, self.see_pool, WATCHES),
            Reflector(PODS, self.see_pod, WATCHES, label_selector=POOL_LABEL),
            Reflector(CONFIG_MAPS, self.see_config_map, WATCHES, label_selector=POOL_LABEL),
        )
        self._skips = SkipReporter(api)
        self._stuck = StuckPods(api)
        members = MemberReader(
            signer, self._observed.injected_pods, lambda key: self._queue.add_after(key, REPORTS_TOGETHER_SECONDS)
        )
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
            clock,
        )
        self._queue: WorkQueue[PoolKey] = WorkQueue(self._reconciler.reconcile, workers=WORKERS, expected=(ApiError,))

    @classmethod
    async def start(cls, api: ApiServer, settings: OperatorSettings) -> Controller:
        """Make keys and certificates if they are missing and look at the webhook."""
        signer = await ensure_signer(api, settings.namespace)
        controller = cls(api, settings, signer)
        await controller._renew_certificates()
        await controller._webhook.look()
        return controller

    async def run(self, reader: ApiReader) -> None:
        """Work until cancelled; any part that ends takes the others with it."""
        serve_census(self._observed)
        WEBHOOK_PROBLEMS.set_function(self._webhook.count_problems)
        async with asyncio.TaskGroup() as group:
            group.create_task(watch_stalls(LOOP_STALL_SECONDS.observe))
            for watch in self._watches:
                group.create_task(watch.follow(reader))
            for watch in self._watches:
                await watch.synced.wait()
            log.info("everything is listed", pools=len(self._observed.pools()))
            group.create_task(self._queue.run())
            group.create_task(self._members.run())
            group.create_task(self._webhook.run())
            group.create_task(_repeat(self._resync, RESYNC_EVERY_SECONDS))
            group.create_task(_repeat(self._renew_certificates, CERTIFICATES_EVERY_SECONDS))

    def see_pool(self, event: Event) -> None:
        """Take one watch event of a pool."""
        is_gone = event["type"] == "DELETED"
        # A pool that goes gives its user to the next one, and a pool that comes may have been made before its holder. Of those
        # that want one user no others change: whoever makes a thousand of them costs a thousand looks, not a million.
        known = self._observed.claim(key_of(event["object"]))
        users = set() if known is None else {known.user}
        if not is_gone:
            users.add(claim_user(event["object"]).user)
        before = {self._observed.user_holder(user) for user in users}
        key = (self._observed.drop_pool if is_gone else self._observed.put_pool)(event["object"])
        for touched in {key, *before, *map(self._observed.user_holder, users)}:
            if touched is not None:
                self._add(touched)

    def see_config_map(self, event: Event) -> None:
        """Take one watch event of a pool's ConfigMap."""
        is_gone = event["type"] == "DELETED"
        see = self._observed.drop_config_map if is_gone else self._observed.put_config_map
        for key in see(event["object"]):
            self._add(key)

    def see_pod(self, event: Event) -> None:
        """Take one watch event of a labelled pod."""
        uid = event["object"]["metadata"]["uid"]
        if event["type"] == "DELETED":
            self._skips.forget(uid)
            self._stuck.forget(uid)
            touched = self._observed.drop_pod(uid)
        else:
            touched = self._observed.put_pod(event["object"])
        for key in touched:
            self._queue.add_after(key, PODS_TOGETHER_SECONDS)

    def _add(self, key: PoolKey) -> None:
        self._queue.add(key)

    def _add_all(self) -> None:
        for key in self._observed.pools():
            self._queue.add(key)

    async def _resync(self) -> None:
        self._add_all()

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
