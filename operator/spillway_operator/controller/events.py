"""Kubernetes Events, posted once: the name is derived from what is said, so that a restart does not say it again."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Self

import structlog

from spillway_operator.api import Metadata
from spillway_operator.kube.client import ApiServer
from spillway_operator.kube.errors import ApiError, Conflict
from spillway_operator.kube.resources import EVENTS, POOLS, Manifest

COMPONENT = "spillway-operator"
_REFUSED_FOR_GOOD = frozenset({400, 403, 404, 413, 422})

log = structlog.get_logger()


@dataclass(frozen=True)
class Subject:
    """The object that an Event is about."""

    api_version: str
    kind: str
    namespace: str
    name: str
    uid: str

    @classmethod
    def pool(cls, metadata: Metadata) -> Self:
        """A KVCachePool."""
        return cls(POOLS.api_version, POOLS.kind, metadata.namespace, metadata.name, metadata.uid)


async def post_once(api: ApiServer, subject: Subject, reason: str, message: str) -> None:
    """Post a Warning about `subject`; the same reason and message about the same object is posted once an hour at most.

    The API server forgets Events after an hour; until then the second one meets the first by name. An Event that is refused for
    good, as by a namespace that is being terminated, is left unsaid: nothing that is to be done may wait for it. Raises ApiError
    where it may be taken later.
    """
    try:
        await api.create(build_event(subject, reason, message, datetime.now(UTC)), EVENTS)
    except Conflict:
        return
    except ApiError as error:
        if error.status not in _REFUSED_FOR_GOOD:
            raise
        log.warning("event is not taken", namespace=subject.namespace, name=subject.name, reason=str(error))


def build_event(subject: Subject, reason: str, message: str, now: datetime) -> Manifest:
    """Render the Event."""
    digest = hashlib.sha256(f"{subject.uid}/{reason}/{message}".encode()).hexdigest()[:16]
    stamp = now.isoformat(timespec="seconds").replace("+00:00", "Z")
    return {
        "apiVersion": EVENTS.api_version,
        "kind": EVENTS.kind,
        "metadata": {"name": f"{subject.name[:230].rstrip('.-')}.{digest}", "namespace": subject.namespace},
        "involvedObject": {
            "apiVersion": subject.api_version,
            "kind": subject.kind,
            "namespace": subject.namespace,
            "name": subject.name,
            "uid": subject.uid,
        },
        "reason": reason,
        "message": message[:1024],
        "type": "Warning",
        "source": {"component": COMPONENT},
        "firstTimestamp": stamp,
        "lastTimestamp": stamp,
        "count": 1,
    }
