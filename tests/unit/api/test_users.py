"""No two pools run their sidecars under one user, whoever names what when."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from spillway_operator.api import Reason, UserClaim, claim_user, find_user_fault, parse_pool, pool_user, users
from spillway_operator.api.names import FIRST_DERIVED_USER, LAST_DERIVED_USER

NAMED = "spec.sidecar.securityContext.runAsUser"


def make_stored(uid: str, created: str = "2026-11-24T12:00:00Z", user: int | None = None) -> dict[str, Any]:
    security = {} if user is None else {"runAsUser": user}
    return {
        "metadata": {"name": "chat", "namespace": "team-a", "uid": uid, "creationTimestamp": created},
        "spec": {"sidecar": {"securityContext": security}, "tiers": {"dram": {"capacity": "1Gi"}}},
    }


def claim(uid: str, created: str = "2026-11-24T12:00:00Z", user: int | None = None) -> UserClaim:
    return claim_user(make_stored(uid, created, user))


def accepted(claims: Iterable[UserClaim]) -> list[UserClaim]:
    known = list(claims)
    return [one for one in known if find_user_fault(one, known) is None]


stored_pools = st.lists(
    st.builds(
        make_stored,
        st.uuids().map(str),
        st.integers(0, 3).map(lambda second: f"2026-11-24T12:00:0{second}Z"),
        st.none() | st.integers(1, 4),
    ),
    max_size=12,
    unique_by=lambda stored: stored["metadata"]["uid"],
)


@given(stored_pools, st.randoms(use_true_random=False))
def test_accepted_pools_have_users_of_their_own_and_every_user_that_is_wanted_has_one(
    stored: list[dict[str, Any]], order: random.Random
) -> None:
    claims = [claim_user(pool) for pool in stored]
    users_of_accepted = [one.user for one in accepted(claims)]
    assert sorted(users_of_accepted) == sorted({one.user for one in claims})
    shuffled = order.sample(claims, len(claims))
    assert set(accepted(shuffled)) == set(accepted(claims)), "whoever is asked, in whatever order, says the same"


@given(stored_pools)
def test_what_comes_later_takes_nothing_from_who_was_there(stored: list[dict[str, Any]]) -> None:
    claims = sorted((claim_user(pool) for pool in stored), key=lambda one: (one.created_at, one.pool_uid))
    before: set[UserClaim] = set()
    for count in range(len(claims) + 1):
        now = set(accepted(claims[:count]))
        assert before <= now
        before = now


@given(st.lists(st.uuids(), max_size=30, unique=True))
def test_derived_users_that_meet_are_shared_by_nobody(uids: list[UUID]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(users, "LAST_DERIVED_USER", FIRST_DERIVED_USER + 3)
        users_of_accepted = [one.user for one in accepted(claim(str(uid)) for uid in uids)]
    assert len(users_of_accepted) == len(set(users_of_accepted))


@given(st.uuids())
def test_derived_user_is_one_that_nobody_may_name(uid: UUID) -> None:
    stored = make_stored(str(uid))
    pool = parse_pool(stored)
    assert pool_user(pool) == claim_user(stored).user
    assert FIRST_DERIVED_USER <= pool_user(pool) <= LAST_DERIVED_USER
    with pytest.raises(ValueError, match="runAsUser"):
        parse_pool(make_stored(str(uid), user=pool_user(pool)))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        pytest.param(("b", "2026-11-24T12:00:00Z"), ("a", "2026-11-24T12:00:01Z"), id="the older"),
        pytest.param(("a", "2026-11-24T12:00:00Z"), ("b", "2026-11-24T12:00:00Z"), id="in one second the lower uid"),
    ],
)
def test_first_pool_keeps_its_user(first: tuple[str, str], second: tuple[str, str]) -> None:
    holder, late = claim(*first, user=1000), claim(*second, user=1000)
    assert find_user_fault(holder, [late, holder]) is None
    fault = find_user_fault(late, [late, holder])
    assert fault is not None and fault.reason is Reason.RUN_AS_USER_TAKEN
    assert (
        fault.message
        == f"{NAMED}: another pool uses user id 1000: remove the field, and the pool gets an id of its own"
    )
    assert find_user_fault(late, [late]) is None, "once the other is gone"


def test_pool_that_cannot_be_read_holds_its_user() -> None:
    broken = make_stored("a", user=1000)
    broken["spec"]["tiers"] = "none"
    assert find_user_fault(claim("b", user=1000), [claim_user(broken)]) is not None
    for spec in ({}, {"sidecar": None}, {"sidecar": {"securityContext": None}}):
        assert claim_user({**broken, "spec": spec}).user == claim("a").user
