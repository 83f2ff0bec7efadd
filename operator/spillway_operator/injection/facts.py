"""What a decision about a pod rests on beside the pod itself. Gathered by the caller; nothing in this package does I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from spillway_operator.api import Allowed, Fault, KVCachePool, SkipReason

Pod = dict[str, Any]
Container = dict[str, Any]


@dataclass(frozen=True)
class Facts:
    """The cluster as the webhook saw it when the pod was admitted.

    pool: the pool that the pod's label names, None if there is none. pool_fault: why it could not be read, if it could not.
    user_fault: why its sidecars may not run under its user, which another pool may have.
    namespace_annotations: those of the namespace that this package asks for (NAMESPACE_ANNOTATIONS).
    limit_ranges: the LimitRange objects of the namespace. status_public_keys: raw Ed25519 keys in base64.
    drawn_port: at random from http_port.DRAWN_PORTS, for a pod on the node's network.
    is_user_assigned: the sidecar's user is left to the cluster (assigned_user.py).
    """

    pool: KVCachePool | None
    allowed: Allowed
    pool_fault: str = ""
    user_fault: Fault | None = None
    namespace_labels: Mapping[str, str] = field(default_factory=dict)
    namespace_annotations: Mapping[str, str] = field(default_factory=dict)
    limit_ranges: tuple[Mapping[str, Any], ...] = ()
    status_public_keys: tuple[str, ...] = ()
    pull_policy: str = "IfNotPresent"
    drawn_port: int = 20_000
    is_user_assigned: bool = False


@dataclass(frozen=True)
class Skip:
    """The decision to start a pod without a sidecar. `message` says what was found and what to do about it."""

    reason: SkipReason
    message: str
