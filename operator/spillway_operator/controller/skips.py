"""Labelled pods that started without a sidecar: one Event on the pod and one count, each."""

from __future__ import annotations

from collections.abc import Iterable

import structlog

from spillway_operator.api import SkipReason
from spillway_operator.controller.events import Subject, post_once
from spillway_operator.controller.observed import PodView
from spillway_operator.kube.client import ApiServer
from spillway_operator.kube.errors import ApiError
from spillway_operator.metrics import PODS_SKIPPED

EVENT_REASON = "SpillwaySkipped"

log = structlog.get_logger()


class SkipReporter:
    """Remembers, in memory, whom it reported; after a restart the Event's name keeps it from being posted twice."""

    def __init__(self, api: ApiServer) -> None:
        self._api = api
        self._reported: set[str] = set()

    async def report(self, pods: Iterable[PodView]) -> None:
        """Report every pod that carries a skip reason and was not reported yet: its annotation may be edited without end.

        One that cannot be reported now costs no other its report, while the API server answers. Raises the first ApiError.
        """
        failed: ApiError | None = None
        for pod in pods:
            if pod.skipped and not pod.injected and pod.uid not in self._reported:
                try:
                    await self._report(pod)
                except ApiError as error:
                    failed = failed or error
                    if error.status == 0:
                        break  # no answer: the next would wait for none as well
                else:
                    self._reported.add(pod.uid)
        if failed is not None:
            raise failed

    def forget(self, pod_uid: str) -> None:
        """The pod is gone."""
        self._reported.discard(pod_uid)

    async def _report(self, pod: PodView) -> None:
        subject = Subject("v1", "Pod", pod.namespace, pod.name, pod.uid)
        why = pod.skip_message or SkipReason.explain(pod.skipped)
        message = f"the pod runs without a KV cache sidecar of pool {pod.pool}: {pod.skipped}"
        message += f" ({why}). Re-create the pod when that is mended" if why else ""
        await post_once(self._api, subject, EVENT_REASON, message)
        PODS_SKIPPED.labels(reason=pod.skipped).inc()
        log.warning("pod started without a sidecar", namespace=pod.namespace, pod=pod.name, pool=pod.pool,
                    reason=pod.skipped)  # fmt: skip
