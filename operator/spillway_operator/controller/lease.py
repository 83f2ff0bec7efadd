"""One active controller by a Lease, safe against clock skew and against a process that hangs.

Duration 10 s, renewed every 2 s. A holder that could not renew for 7 s ends its process: requests time out at 3 s, so
its last write is over before anybody else may take the Lease. Whether another holder's Lease has expired is judged by
our own monotonic clock since we last saw the Lease change, never by the time written in it. The 7 s are watched by a
thread of its own, since an event loop that hangs would neither renew nor notice.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import structlog

from spillway_operator.kube.client import ApiServer
from spillway_operator.kube.errors import ApiError, Conflict
from spillway_operator.kube.resources import LEASES, Manifest
from spillway_operator.metrics import LEADER

DURATION_SECONDS = 10
RENEW_SECONDS = 2.0
GIVE_UP_SECONDS = 7.0

log = structlog.get_logger()


@dataclass
class Lease:
    """Our side of the Lease `name` in `namespace`; `identity` is unique per process."""

    api: ApiServer
    namespace: str
    name: str
    identity: str
    clock: Callable[[], float] = time.monotonic
    renewed_at: float = 0.0
    # False while a write of ours may be in flight: the Lease then ends by itself.
    releasable: bool = True
    _seen: tuple[str, str] = ("", "")
    _seen_at: float = field(default=0.0)

    async def acquire(self) -> None:
        """Wait until the Lease is ours. Unreachable API server: go on trying."""
        while not await self._try_once():
            await asyncio.sleep(RENEW_SECONDS)
        LEADER.set(1)
        log.info("controller is active", lease=self.name)

    async def hold(self) -> None:
        """Renew until cancelled. Returns only when somebody else holds the Lease."""
        while True:
            await asyncio.sleep(RENEW_SECONDS)
            if not await self._try_once() and self._seen[0] not in ("", self.identity):
                log.error("another controller took the Lease", lease=self.name)
                return

    async def release(self) -> None:
        """Give the Lease up, so that a standby need not wait 10 s."""
        if not self.releasable:
            log.warning("a request has not ended, so the lease is left to end by itself")
            return
        try:
            observed = await self.api.get(LEASES, self.name, self.namespace)
            if observed is not None and observed["spec"].get("holderIdentity") == self.identity:
                observed["spec"]["holderIdentity"] = ""
                await self.api.replace(observed, LEASES)
        except ApiError as error:
            log.warning("lease could not be released", reason=str(error))

    async def _try_once(self) -> bool:
        asked_at = self.clock()
        try:
            observed = await self.api.get(LEASES, self.name, self.namespace)
            if observed is None:
                await self.api.create(self._manifest(None), LEASES)
            elif self._may_take(observed):
                await self.api.replace(self._manifest(observed), LEASES)
            else:
                return False
        except Conflict:
            return False
        except ApiError as error:
            log.warning("lease request failed", reason=str(error))
            return False
        self.renewed_at = asked_at  # the time before the request: the Lease may be as old as that
        return True

    def _may_take(self, observed: Manifest) -> bool:
        spec = observed.get("spec") or {}
        holder = spec.get("holderIdentity") or ""
        change = (holder, observed["metadata"].get("resourceVersion", ""))
        if change != self._seen:
            self._seen, self._seen_at = change, self.clock()
        expired = self.clock() - self._seen_at > DURATION_SECONDS
        return holder in ("", self.identity) or expired

    def _manifest(self, observed: Manifest | None) -> Manifest:
        now = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        held: dict[str, Any] = dict((observed or {}).get("spec") or {})
        takes_over = held.get("holderIdentity") != self.identity
        metadata = (observed or {}).get("metadata") or {"name": self.name, "namespace": self.namespace}
        return {
            "apiVersion": LEASES.api_version,
            "kind": LEASES.kind,
            "metadata": metadata,
            "spec": {
                "holderIdentity": self.identity,
                "leaseDurationSeconds": DURATION_SECONDS,
                "acquireTime": now if takes_over else held.get("acquireTime", now),
                "renewTime": now,
                "leaseTransitions": held.get("leaseTransitions", 0) + (1 if takes_over and observed else 0),
            },
        }


def watch_renewal(lease: Lease, end_process: Callable[[int], None] = os._exit) -> threading.Thread:
    """Start the thread that ends the process when the Lease was not renewed for 7 s."""

    def watch() -> None:
        while time.monotonic() - lease.renewed_at < GIVE_UP_SECONDS:
            time.sleep(0.25)
        end_process(70)

    thread = threading.Thread(target=watch, name="lease-watchdog", daemon=True)
    thread.start()
    return thread
