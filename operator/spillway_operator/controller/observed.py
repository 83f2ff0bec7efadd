"""What the controller last saw of the cluster: pools as they are, pods as projections below 1 KiB.

Filled by watches and by the answers to our own writes. Objects are kept by namespace and name, of which one uid is there at a time.
Nothing here does I/O; the reconcile reads it as its observation.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

from spillway.config import HTTP_PORT

from spillway_operator.api import SkipReason, UserClaim, claim_user
from spillway_operator.api.names import (
    INJECT_LABEL,
    POOL_LABEL,
    REVISION_LABEL,
    SKIPPED_ANNOTATION,
    SKIPPED_MESSAGE_ANNOTATION,
    STATUS_ANNOTATION,
)
from spillway_operator.controller.roster import Roster
from spillway_operator.controller.symptoms import Symptom, find_symptom, has_begun, has_own_claim
from spillway_operator.injection import MAX_MESSAGE_CHARACTERS
from spillway_operator.metrics import PODS, POOLS

# Between a write and its answer lie 3 s; so many objects do not go in that time.
REMEMBERED_ENDS = 10_000
# In place of a word that this version does not know.
UNKNOWN_SKIP = "unknown"


class PoolKey(NamedTuple):
    """A pool's name within its namespace: the key of the work queue."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class PodView:
    """What the controller keeps of a pod.

    `symptom` is why it does not start because of us; `begun` is whether a container of the user's ever did, `owner` the kind
    of what makes the pod again, `own_claim` whether it has a claim of its own. `skipped` is the webhook's reason and
    `skip_message` its words; `excluded` is the user's wish never to be touched. `pool` is the name in the
    label, which a user may change; `pool_uid` is the pool that the pod was injected for, whatever its label says since,
    empty where it was not.
    """

    namespace: str
    name: str
    uid: str
    pool: str
    node: str
    ip: str
    phase: str
    leaving: bool
    ready: bool
    ready_at: datetime | None
    injected: bool
    pool_uid: str
    revision: str
    skipped: str
    excluded: bool
    created_at: datetime | None = None
    symptom: Symptom | None = None
    begun: bool = False
    owner: str = ""
    own_claim: bool = False
    initialized_at: datetime | None = None
    http_port: int = HTTP_PORT
    # Whoever edits it changes nothing: it is for an Event that is posted once.
    skip_message: str = field(default="", compare=False)

    @property
    def key(self) -> PoolKey:
        return PoolKey(self.namespace, self.pool)

    @property
    def bare(self) -> bool:
        """Whether the pod wants a sidecar and has none."""
        return not self.injected and not self.excluded

    @property
    def live(self) -> bool:
        """Whether the pod counts: neither finished nor on its way out."""
        return not self.leaving and not self.ended

    @property
    def ended(self) -> bool:
        """Whether the pod's containers have ended for good. A pod that is leaving may still run."""
        return self.phase in ("Succeeded", "Failed")


def parse_pod(body: Mapping[str, Any]) -> PodView | None:
    """Project a pod; None where it names no pool."""
    metadata = body.get("metadata") or {}
    labels, annotations = metadata.get("labels") or {}, metadata.get("annotations") or {}
    pool = labels.get(POOL_LABEL)
    if not pool:
        return None
    status = body.get("status") or {}
    ready, ready_at = _readiness(status)
    injection = _injection(annotations)
    return PodView(
        namespace=metadata["namespace"],
        name=metadata["name"],
        uid=metadata["uid"],
        pool=pool,
        node=(body.get("spec") or {}).get("nodeName") or "",
        ip=status.get("podIP") or "",
        phase=status.get("phase") or "Pending",
        leaving=bool(metadata.get("deletionTimestamp")),
        ready=ready,
        ready_at=ready_at,
        injected=injection is not None,
        pool_uid=str((injection or {}).get("poolUid", ""))[:36],
        revision=labels.get(REVISION_LABEL, ""),
        skipped=_skip_reason(annotations),
        skip_message=_skip_message(annotations),
        excluded=labels.get(INJECT_LABEL) == "false",
        created_at=_moment(metadata.get("creationTimestamp")),
        symptom=find_symptom(body) if injection is not None else None,
        begun=has_begun(status),
        owner=_owner(metadata),
        own_claim=has_own_claim(body),
        initialized_at=_initialized_at(status),
        http_port=_http_port(injection),
    )


def _http_port(injection: dict[str, Any] | None) -> int:
    port = (injection or {}).get("port")
    return port if isinstance(port, int) and 0 < port < 65536 else HTTP_PORT  # an older webhook notes none


def _moment(stamp: str | None) -> datetime | None:
    return datetime.fromisoformat(stamp) if stamp else None


def _owner(metadata: Mapping[str, Any]) -> str:
    owners = metadata.get("ownerReferences") or []
    return next((str(owner.get("kind", ""))[:63] for owner in owners if owner.get("controller")), "")


def _skip_reason(annotations: Mapping[str, str]) -> str:
    """The webhook's reason. Anybody who may change the pod may write another word, which then counts as one and the same."""
    word = annotations.get(SKIPPED_ANNOTATION, "")
    return word if not word or word in set(SkipReason) else UNKNOWN_SKIP


def _skip_message(annotations: Mapping[str, str]) -> str:
    """The webhook's words, as far as they are words: whoever may change the pod may write others, for an Event on that pod."""
    if annotations.get(SKIPPED_ANNOTATION) not in set(SkipReason):
        return ""
    message = annotations.get(SKIPPED_MESSAGE_ANNOTATION, "")[:MAX_MESSAGE_CHARACTERS]
    return "".join(character if character.isprintable() else " " for character in message)


def _injection(annotations: Mapping[str, str]) -> dict[str, Any] | None:
    try:
        noted = json.loads(annotations.get(STATUS_ANNOTATION, ""))
    except ValueError:
        return None
    return noted if isinstance(noted, dict) else None


def _initialized_at(status: Mapping[str, Any]) -> datetime | None:
    for condition in status.get("conditions") or []:
        if condition.get("type") == "Initialized" and condition.get("status") == "True":
            return _moment(condition.get("lastTransitionTime"))
    return None


def _readiness(status: Mapping[str, Any]) -> tuple[bool, datetime | None]:
    for condition in status.get("conditions") or []:
        if condition.get("type") == "Ready":
            return condition.get("status") == "True", _moment(condition.get("lastTransitionTime"))
    return False, None


class Observed:
    """Pools and pods by key. Every change returns the keys of the pools that it may concern."""

    def __init__(self) -> None:
        self._pools: dict[PoolKey, dict[str, Any]] = {}
        self._claims: dict[PoolKey, UserClaim] = {}
        self._claims_of_user: dict[int, dict[PoolKey, UserClaim]] = {}
        self._config_maps: dict[tuple[str, str], dict[str, Any]] = {}
        self._pods: dict[PoolKey, dict[str, PodView]] = {}
        self._key_of_pod: dict[str, PoolKey] = {}
        self._uid_of_name: dict[tuple[str, str], str] = {}
        self.injected_pods: Roster[PodView] = Roster()
        """Every injected pod that runs and has an address, by uid."""
        self._injected_for: dict[tuple[str, str], dict[str, PodView]] = {}
        self._gone: dict[str, int] = {}

    def pool(self, key: PoolKey) -> dict[str, Any] | None:
        return self._pools.get(key)

    def pools(self) -> list[PoolKey]:
        return list(self._pools)

    def claim(self, key: PoolKey) -> UserClaim | None:
        """The pool's claim to a user id."""
        return self._claims.get(key)

    def user_holder(self, user: int) -> PoolKey | None:
        """The pool whose claim to the user id is the first."""
        claims = self._claims_of_user.get(user, {})
        return min(claims, key=claims.__getitem__, default=None)

    def pods(self, key: PoolKey) -> list[PodView]:
        """The pods of one pool, by name."""
        return sorted(self._pods.get(key, {}).values(), key=lambda pod: pod.name)

    def injected_for(self, namespace: str, pool_uid: str) -> list[PodView]:
        """The pods that were injected for one pool, by name: ended ones too, and whatever their label says since.

        Only those of its namespace: the uid stands in an annotation, which another tenant could write too.
        """
        return sorted(self._injected_for.get((namespace, pool_uid), {}).values(), key=lambda pod: pod.name)

    def live_pods(self) -> Iterator[PodView]:
        """Every pod that is neither finished nor leaving, in no order."""
        return (pod for pods in self._pods.values() for pod in pods.values() if pod.live)

    def config_map(self, namespace: str, name: str) -> dict[str, Any] | None:
        """A ConfigMap that carries a pool's label, as last seen."""
        return self._config_maps.get((namespace, name))

    def put_pool(self, body: Mapping[str, Any]) -> PoolKey:
        """Keep a pool unless a newer state of it is known: the answer to our own write may overtake its watch event."""
        key = key_of(body)
        if not self._is_older(body, self._pools.get(key)):
            self._pools[key] = _slim(body)
            self._withdraw_claim(key)
            claim = self._claims[key] = claim_user(body)
            self._claims_of_user.setdefault(claim.user, {})[key] = claim
            POOLS.set(len(self._pools))
        return key

    def drop_pool(self, body: Mapping[str, Any]) -> PoolKey:
        key = key_of(body)
        self._bury(body)
        self._pools.pop(key, None)
        self._withdraw_claim(key)
        POOLS.set(len(self._pools))
        return key

    def _withdraw_claim(self, key: PoolKey) -> None:
        claim = self._claims.pop(key, None)
        if claim is None:
            return
        claims = self._claims_of_user[claim.user]
        del claims[key]
        if not claims:
            del self._claims_of_user[claim.user]

    def put_config_map(self, body: Mapping[str, Any]) -> set[PoolKey]:
        """Keep a ConfigMap unless a newer state of it is known. Whose it is, its owner says and not its label."""
        place = _place_of(body)
        known = self._config_maps.get(place)
        if not self._is_older(body, known):
            self._config_maps[place] = _slim(body)
        return _pools_named(body, known)

    def drop_config_map(self, body: Mapping[str, Any]) -> set[PoolKey]:
        self._bury(body)
        return _pools_named(body, self._config_maps.pop(_place_of(body), None))

    def put_pod(self, body: Mapping[str, Any]) -> set[PoolKey]:
        view = parse_pod(body)
        if view is None:
            return self.drop_pod(body["metadata"]["uid"])
        touched: set[PoolKey] = set()
        # There is one pod of a name (a StatefulSet's returns under it), and the end of the one before may be heard later.
        before = self._uid_of_name.get((view.namespace, view.name), view.uid)
        if before != view.uid:
            touched |= self.drop_pod(before)
        if self._key_of_pod.get(view.uid, view.key) != view.key:
            touched |= self.drop_pod(view.uid)
        known = self._pods.setdefault(view.key, {})
        if known.get(view.uid) == view:
            return touched
        self._withdraw_injection(known.get(view.uid))
        known[view.uid] = view
        if view.injected and view.live and view.ip:
            self.injected_pods.put(view.uid, view)
        if view.pool_uid:
            self._injected_for.setdefault((view.namespace, view.pool_uid), {})[view.uid] = view
        self._key_of_pod[view.uid] = view.key
        self._uid_of_name[view.namespace, view.name] = view.uid
        PODS.set(len(self._key_of_pod))
        return touched | {view.key}

    def drop_pod(self, uid: str) -> set[PoolKey]:
        key = self._key_of_pod.pop(uid, None)
        PODS.set(len(self._key_of_pod))
        if key is None:
            return set()
        pods = self._pods[key]
        gone = pods.pop(uid, None)
        self._withdraw_injection(gone)
        if gone is not None and self._uid_of_name.get((gone.namespace, gone.name)) == uid:
            del self._uid_of_name[gone.namespace, gone.name]
        if not pods:
            del self._pods[key]
        return {key}

    def _withdraw_injection(self, pod: PodView | None) -> None:
        if pod is None:
            return
        self.injected_pods.drop(pod.uid)
        place = (pod.namespace, pod.pool_uid)
        pods = self._injected_for.get(place)
        if pods is None:
            return
        pods.pop(pod.uid, None)
        if not pods:
            del self._injected_for[place]

    def _bury(self, body: Mapping[str, Any]) -> None:
        """Remember for a while when an object went: the answer to a write from before must not bring it back."""
        metadata = body["metadata"]
        self._gone[metadata["uid"]] = int(metadata["resourceVersion"])
        if len(self._gone) > REMEMBERED_ENDS:
            del self._gone[next(iter(self._gone))]

    def _is_older(self, body: Mapping[str, Any], known: Mapping[str, Any] | None) -> bool:
        """Whether `body` is an earlier state of the object `known`, or of one that is gone since.

        KEP-5504: versions of one resource compare as integers.
        """
        uid, version = body["metadata"]["uid"], int(body["metadata"]["resourceVersion"])
        if version < self._gone.get(uid, 0):
            return True
        return (
            known is not None
            and known["metadata"]["uid"] == uid
            and version < int(known["metadata"]["resourceVersion"])
        )


def _slim(body: Mapping[str, Any]) -> dict[str, Any]:
    # managedFields is a third of an object and of no use to a reader.
    metadata = {name: value for name, value in body["metadata"].items() if name != "managedFields"}
    return {**body, "metadata": metadata}


def _place_of(body: Mapping[str, Any]) -> tuple[str, str]:
    return body["metadata"]["namespace"], body["metadata"]["name"]


def _pools_named(*bodies: Mapping[str, Any] | None) -> set[PoolKey]:
    """The pools that the label of an object names, or named before. Of one that is gone there may be no labels."""
    named = (((body or {}).get("metadata") or {}) for body in bodies)
    labelled = ((metadata.get("namespace", ""), (metadata.get("labels") or {}).get(POOL_LABEL)) for metadata in named)
    return {PoolKey(namespace, pool) for namespace, pool in labelled if pool}


def key_of(body: Mapping[str, Any]) -> PoolKey:
    """The key of a pool object."""
    metadata = body["metadata"]
    return PoolKey(metadata["namespace"], metadata["name"])
