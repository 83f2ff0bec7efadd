"""Two pools that want one user: the later one's status says so, and the earlier one's goes on."""

from __future__ import annotations

from typing import Any

from controller_builders import make_pool_body
from rig import CHAT, Rig
from spillway_operator.api import Reason
from spillway_operator.controller.observed import PoolKey

OTHER = PoolKey("team-b", "theirs")
SPEC = {"sidecar": {"securityContext": {"runAsUser": 1000}}, "tiers": {"dram": {"capacity": "1Gi"}}}


def other_pool(created: str, **metadata: Any) -> dict[str, Any]:
    placed = {"namespace": OTHER.namespace, "name": OTHER.name, "uid": "other", "creationTimestamp": created}
    return make_pool_body(spec=SPEC, metadata={**placed, **metadata})


def make_rig() -> Rig:
    return Rig(spec=SPEC, creationTimestamp="2026-11-24T12:00:05Z")


def config_valid(rig: Rig) -> tuple[str, str, str]:
    condition = rig.status.condition("ConfigValid")
    assert condition is not None
    return condition.status, condition.reason, condition.message


def queued(rig: Rig) -> set[PoolKey]:
    """What waits for a look since the last call."""
    found = set(rig.controller._queue._dirty)
    rig.controller._queue._dirty.clear()
    return found


async def test_later_pool_is_told_and_nothing_of_whose_the_user_is() -> None:
    rig = make_rig()
    rig.controller.see_pool({"type": "ADDED", "object": other_pool("2026-11-24T12:00:00Z")})
    await rig.reconcile()
    status, reason, message = config_valid(rig)
    assert (status, reason) == ("False", Reason.RUN_AS_USER_TAKEN)
    assert "runAsUser" in message and "1000" in message
    assert OTHER.namespace not in message and OTHER.name not in message

    rig.controller.see_pool({"type": "DELETED", "object": other_pool("2026-11-24T12:00:00Z")})
    await rig.reconcile()
    assert config_valid(rig)[0] == "True"


async def test_earlier_pool_goes_on() -> None:
    rig = make_rig()
    rig.controller.see_pool({"type": "ADDED", "object": other_pool("2026-11-24T12:00:09Z")})
    await rig.reconcile()
    assert config_valid(rig)[:2] == ("True", Reason.VALID)


async def test_whoever_wants_the_same_user_is_looked_at_again_when_one_comes_or_goes() -> None:
    rig = make_rig()
    rig.controller.see_pool({"type": "ADDED", "object": rig.pool})
    queued(rig)
    for kind in ("ADDED", "DELETED"):
        rig.controller.see_pool({"type": kind, "object": other_pool("2026-11-24T12:00:00Z")})
        assert queued(rig) == {CHAT, OTHER}, kind
    # One that gives its name up and takes a user of its own frees it too.
    rig.controller.see_pool({"type": "ADDED", "object": other_pool("2026-11-24T12:00:00Z")})
    queued(rig)
    own = {**other_pool("2026-11-24T12:00:00Z", resourceVersion="11"), "spec": {"tiers": SPEC["tiers"]}}
    rig.controller.see_pool({"type": "MODIFIED", "object": own})
    assert queued(rig) == {CHAT, OTHER}
    assert rig.controller._observed.user_holder(1000) == CHAT


async def test_thousand_pools_that_want_one_user_cost_one_look_each() -> None:
    rig = make_rig()
    rig.controller.see_pool({"type": "ADDED", "object": rig.pool})
    queued(rig)
    for number in range(1000):
        late = other_pool("2026-11-24T12:00:09Z", name=f"late-{number}", uid=f"late-{number}")
        rig.controller.see_pool({"type": "ADDED", "object": late})
        assert queued(rig) == {CHAT, PoolKey(OTHER.namespace, f"late-{number}")}
