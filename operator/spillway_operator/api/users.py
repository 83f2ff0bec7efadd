"""Which user id a pool's sidecars run under, and whose it is where two pools want one.

A file on a node's disk knows its owner by that number alone, so no two pools may have one. Who named none gets one that
follows from the pool's uid, which nobody chooses, out of a range that nobody may name. The field cannot be set or changed
later (CEL), so the pool that was made first had the user first; in one second the lower uid decides. Operator and webhook
answer from the same function over all pools.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from spillway_operator.api.allowed import Fault
from spillway_operator.api.names import FIRST_DERIVED_USER, LAST_DERIVED_USER
from spillway_operator.api.pool import KVCachePool
from spillway_operator.api.reasons import Reason


@dataclass(frozen=True, order=True)
class UserClaim:
    """A pool's claim to a user id. Of claims to one id the least holds it."""

    user: int
    created_at: str
    pool_uid: str
    named: bool = False


def pool_user(pool: KVCachePool) -> int:
    """The user id of a pool's sidecars."""
    named = pool.spec.sidecar.security_context.run_as_user
    return _derive(pool.metadata.uid) if named is None else named


def claim_user(stored: Mapping[str, Any]) -> UserClaim:
    """The claim of a stored pool, also of one that cannot be used: its pods may run."""
    metadata = stored["metadata"]
    node: Any = stored.get("spec")
    for name in ("sidecar", "securityContext", "runAsUser"):
        node = node.get(name) if isinstance(node, Mapping) else None
    named = isinstance(node, int)
    user = node if named else _derive(metadata["uid"])
    # The API server writes every moment in one form, in which earlier is less.
    return UserClaim(user, metadata.get("creationTimestamp") or "", metadata["uid"], named)


def find_user_fault(mine: UserClaim, all_claims: Iterable[UserClaim]) -> Fault | None:
    """Why a pool may not run under the user that it claims, None if it may. `all_claims` may hold its own.

    Whose the user is stays unsaid: it may be another tenant's.
    """
    if all(other.user != mine.user or mine <= other for other in all_claims):
        return None
    way_out = (
        "remove the field, and the pool gets an id of its own"
        if mine.named
        else "it follows from the pool's uid: delete the pool and make it anew"
    )
    return Fault(
        Reason.RUN_AS_USER_TAKEN,
        f"spec.sidecar.securityContext.runAsUser: another pool uses user id {mine.user}: {way_out}",
    )


def _derive(pool_uid: str) -> int:
    digest = hashlib.sha256(f"spillway-user/{pool_uid}".encode()).digest()
    count = LAST_DERIVED_USER - FIRST_DERIVED_USER + 1
    return FIRST_DERIVED_USER + int.from_bytes(digest[:8]) % count
