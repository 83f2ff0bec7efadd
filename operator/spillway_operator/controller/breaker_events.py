"""An open injection breaker: one Event on the pool and one count, each time that it opens."""

from __future__ import annotations

from datetime import datetime

import structlog

from spillway_operator.api import InjectionStatus, Reason
from spillway_operator.api.pool import Metadata
from spillway_operator.controller.events import Subject, post_once
from spillway_operator.kube.client import ApiServer
from spillway_operator.metrics import BREAKERS_OPENED

log = structlog.get_logger()


class BreakerReporter:
    """Remembers, in memory, what it reported: whoever is killed between status and Event says it when it comes back."""

    def __init__(self, api: ApiServer) -> None:
        self._api = api
        self._reported: dict[str, datetime] = {}

    async def report(self, metadata: Metadata, status: InjectionStatus | None) -> None:
        """Say once that the breaker is open. Raises ApiError."""
        if status is None or status.state == "Closed":
            if self._reported.pop(metadata.uid, None) is not None:
                log.info("injection breaker closed", namespace=metadata.namespace, pool=metadata.name)
            return
        if status.state != "Open" or self._reported.get(metadata.uid) == status.since:
            return
        subject = Subject.pool(metadata)
        words = f"new pods start without a sidecar: {status.message}"
        await post_once(self._api, subject, Reason.SIDECARS_CANNOT_START, words)
        self._reported[metadata.uid] = status.since
        BREAKERS_OPENED.inc()
        log.warning("injection breaker opened, new pods start without a sidecar", namespace=metadata.namespace,
                    pool=metadata.name, reason=status.reason, message=status.message)  # fmt: skip
