"""The breaker's hands: which pods cannot start because of us, and having them made again where that is possible.

A pod's volumes and init containers cannot be changed once it exists, so a stuck pod is deleted and its owner makes the next one, which
meets the breaker as it stands then, or a pool that was mended since. Only a pod that never began and that a ReplicaSet, StatefulSet or
DaemonSet makes again is deleted, as it was read: an attempt of a Job counts, and nobody makes a bare pod again. Both are named in the
condition.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from datetime import datetime, timedelta

import structlog

from spillway_operator.api import InjectionStatus, Reason, names
from spillway_operator.controller.breaker import GRACE, Failure
from spillway_operator.controller.observed import PodView, PoolKey, parse_pod
from spillway_operator.controller.symptoms import Symptom, claim_name
from spillway_operator.kube.client import ApiServer
from spillway_operator.kube.errors import ApiError
from spillway_operator.kube.resources import EVENTS, PODS, Manifest
from spillway_operator.metrics import STUCK_PODS_DELETED

REMADE_BY = ("ReplicaSet", "StatefulSet", "DaemonSet")
# Events are asked for, of so many pods in one look and not again before so long: a rollout starts hundreds of slow pods.
ASKED_PODS = 3
ASK_EVERY = timedelta(seconds=10)
# A claim of which nothing is heard for so long is not slow: a provisioner that nobody runs says nothing at all.
SILENCE = timedelta(minutes=2)
# Of the pool's labelled pods in a minute, and one at least.
RESTARTED_SHARE = 0.1
# What the webhook has not heard of yet it does not do.
SPREAD = timedelta(seconds=3)
# Whose deletion somebody refuses, a policy of a third party perhaps, must not keep the others waiting.
REFUSED_FOR = timedelta(minutes=10)
# A pod whose own containers began is held up by nothing; but a sidecar that crashes from the start keeps it from getting ready.
STARTING = timedelta(minutes=15)

_CLAIM_FAILURES = ("ProvisioningFailed", "FailedBinding")
_MOUNT_FAILURES = ("FailedMount", "FailedAttachVolume", "FailedMapVolume", "FailedBinding")

# 'MountVolume.SetUp failed for volume "spillway-nvme"', 'ephemeral volume spillway-nvme: ...'
_OUR_VOLUME = re.compile(rf'volume "?{names.VOLUME_PREFIX}')
# 'Unable to attach or mount volumes: unmounted volumes=[a b], unattached volumes=[...]': all of the pod's stand in the second list.
_UNMOUNTED = re.compile(r"unmounted volumes=\[([^\]]*)\]")

log = structlog.get_logger()


class StuckPods:
    """Remembers, in memory, since when a pod has had its symptom; after a restart it is seen anew."""

    def __init__(self, api: ApiServer) -> None:
        self._api = api
        self._since: dict[str, tuple[Symptom, datetime]] = {}
        self._asked: dict[str, tuple[datetime, str]] = {}
        self._restarted_at: dict[PoolKey, datetime] = {}
        self._refused_at: dict[str, datetime] = {}

    def forget(self, pod_uid: str) -> None:
        """The pod is gone."""
        self._since.pop(pod_uid, None)
        self._asked.pop(pod_uid, None)
        self._refused_at.pop(pod_uid, None)

    def forget_pool(self, key: PoolKey) -> None:
        """The pool is gone."""
        self._restarted_at.pop(key, None)

    async def find_failures(self, pods: Sequence[PodView], now: datetime) -> tuple[list[Failure], float | None]:
        """Those whose symptom has lasted, and in how many seconds to look again for those whose has not."""
        failures, pauses, to_ask = [], [], []
        for pod in pods:
            symptom = pod.symptom
            if symptom is None or not pod.injected or _has_long_begun(pod, now):
                self.forget(pod.uid)
                continue
            known = self._since.get(pod.uid)
            if known is None or known[0].reason != symptom.reason:
                known = self._since[pod.uid] = (symptom, now)
            lasted = now - known[1]
            if lasted < GRACE:
                pauses.append((GRACE - lasted).total_seconds() + 0.5)
            elif symptom.proven:
                failures.append(Failure(pod, symptom.reason, symptom.message, known[1]))
            elif lasted >= SILENCE and _may_be_silent(symptom) and not pod.own_claim:
                words = f"claim {claim_name(pod.name)}: {symptom.message}"
                failures.append(Failure(pod, symptom.reason, words, known[1]))
            else:
                to_ask.append(pod)
                pauses.append(ASK_EVERY.total_seconds())
        for pod, words in await self._ask_events(to_ask, now):
            symptom, began = self._since[pod.uid]
            failures.append(Failure(pod, symptom.reason, words, began))
        return failures, min(pauses, default=None)

    async def restart(
        self, key: PoolKey, status: InjectionStatus | None, failures: Sequence[Failure], labelled: int, now: datetime
    ) -> float | None:
        """Delete one of the stuck pods if it is time; returns in how many seconds the next one is due. Raises ApiError.

        In every state, and of every revision: what the breaker learnt in the meantime, or who mended the pool, helps no pod that
        was made before.
        """
        stuck = [
            f.pod for f in failures if not f.pod.begun and f.pod.owner in REMADE_BY and not self._is_refused(f.pod, now)
        ]
        if not stuck:
            return None
        pause = timedelta(seconds=60 / max(1.0, labelled * RESTARTED_SHARE))
        due = self._restarted_at[key] + pause if key in self._restarted_at else now
        if status is not None and status.state == "Open":
            due = max(due, status.since + SPREAD)
        if now < due:
            return (due - now).total_seconds() + 0.1
        try:
            await self._restart(stuck[0])
        except ApiError as error:
            if error.status in (403, 422):
                self._refused_at[stuck[0].uid] = now
            raise
        self._restarted_at[key] = now
        return pause.total_seconds() + 0.1 if len(stuck) > 1 else None

    def _is_refused(self, pod: PodView, now: datetime) -> bool:
        at = self._refused_at.get(pod.uid)
        return at is not None and now - at < REFUSED_FOR

    async def _restart(self, pod: PodView) -> None:
        read = await self._api.get(PODS, pod.name, pod.namespace)
        seen = None if read is None else parse_pod(read)
        if read is None or seen is None or seen.uid != pod.uid or seen.begun or not seen.live or seen.symptom is None:
            return  # it began, or went, meanwhile
        await self._api.delete(PODS, pod.name, pod.namespace, as_read=read)
        STUCK_PODS_DELETED.inc()
        log.warning("pod that could not start is deleted, for its owner to make it again", namespace=pod.namespace, pod=pod.name,
                    pool=pod.pool, reason=seen.symptom.reason)  # fmt: skip

    async def _ask_events(self, pods: Sequence[PodView], now: datetime) -> list[tuple[PodView, str]]:
        due = sorted((pod for pod in pods if self._is_due(pod, now)), key=lambda pod: pod.created_at or now)[
            :ASKED_PODS
        ]
        answers = await asyncio.gather(*map(self._events_of, due), return_exceptions=True)
        for pod, answer in zip(due, answers, strict=True):
            if isinstance(answer, ApiError):
                # What others show must not wait for it.
                log.warning(
                    "events of a pod could not be read", namespace=pod.namespace, pod=pod.name, reason=str(answer)
                )
                answer = self._asked.get(pod.uid, (now, ""))[1]
            elif isinstance(answer, BaseException):
                raise answer
            self._asked[pod.uid] = (now, answer)
        return [(pod, self._asked[pod.uid][1]) for pod in pods if self._asked.get(pod.uid, (now, ""))[1]]

    def _is_due(self, pod: PodView, now: datetime) -> bool:
        asked = self._asked.get(pod.uid)
        return asked is None or now - asked[0] >= ASK_EVERY

    async def _events_of(self, pod: PodView) -> str:
        """What the cluster says of the pod's claim of ours, or of its volumes where it names one of ours; else empty."""
        claim = claim_name(pod.name)
        of_claim, of_pod = await asyncio.gather(
            self._events(pod.namespace, claim), self._events(pod.namespace, pod.name)
        )
        for event in of_claim:
            if event.get("reason") in _CLAIM_FAILURES and _is_since(event, pod):
                return f"claim {claim}: {event.get('message', '')}"
        for event in of_pod:
            message = str(event.get("message", ""))
            if event.get("reason") in _MOUNT_FAILURES and _is_of(event, pod) and names_our_volume(message):
                return message
        return ""

    async def _events(self, namespace: str, name: str) -> list[Manifest]:
        return await self._api.list(EVENTS, namespace, field_selector=f"involvedObject.name={name}")


def names_our_volume(message: str) -> bool:
    """Whether the kubelet's words are of a volume of ours, and of no other: a Secret of the user's that is missing is not our fault."""
    unmounted = _UNMOUNTED.search(message)
    if unmounted is not None:
        volumes = unmounted[1].split()
        return bool(volumes) and all(volume.startswith(names.VOLUME_PREFIX) for volume in volumes)
    return _OUR_VOLUME.search(message) is not None


def _has_long_begun(pod: PodView, now: datetime) -> bool:
    return pod.begun and pod.created_at is not None and now - pod.created_at > STARTING


def _may_be_silent(symptom: Symptom) -> bool:
    """Whether the scheduler waits for the claim by its own word. Without a word it may be the scheduler that does not run."""
    return symptom.reason == Reason.VOLUME_NOT_PROVISIONED and bool(symptom.message)


def _is_since(event: Manifest, pod: PodView) -> bool:
    """Whether an Event is of this pod's claim: a StatefulSet's next one has the same name."""
    stamp = event.get("lastTimestamp") or (event.get("series") or {}).get("lastObservedTime") or event.get("eventTime")
    return stamp is None or pod.created_at is None or datetime.fromisoformat(stamp) >= pod.created_at


def _is_of(event: Manifest, pod: PodView) -> bool:
    return (event.get("involvedObject") or {}).get("uid") == pod.uid
