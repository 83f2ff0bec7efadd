"""Who may take the Lease, judged without anybody's clock but our own."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from spillway_operator.controller import lease as lease_module
from spillway_operator.controller.lease import DURATION_SECONDS, GIVE_UP_SECONDS, Lease, watch_renewal
from spillway_operator.kube.client import ApiServer


class Clock:
    """Seconds that pass only when told to."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


def make_lease(clock: Clock) -> Lease:
    unused = object.__new__(ApiServer)  # who may take the Lease is decided without a request
    return Lease(unused, "spillway-system", "spillway-operator", "me", clock)


def held_by(holder: str, version: str = "1") -> dict[str, Any]:
    spec = {"holderIdentity": holder, "renewTime": "1999-01-01T00:00:00.000000Z", "leaseTransitions": 3}
    return {"metadata": {"name": "spillway-operator", "resourceVersion": version}, "spec": spec}


@pytest.mark.parametrize("holder", ["", "me"])
def test_a_free_lease_and_our_own_may_be_taken(holder: str) -> None:
    assert make_lease(Clock())._may_take(held_by(holder))


def test_anothers_lease_is_taken_only_after_it_stood_still_for_its_duration() -> None:
    clock = Clock()
    lease = make_lease(clock)
    assert not lease._may_take(held_by("other")), "its renewTime is years old, which is the other's clock"
    clock.seconds += DURATION_SECONDS
    assert not lease._may_take(held_by("other"))
    clock.seconds += 0.1
    assert lease._may_take(held_by("other"))


def test_a_renewal_starts_the_wait_anew() -> None:
    clock = Clock()
    lease = make_lease(clock)
    lease._may_take(held_by("other", version="1"))
    clock.seconds += DURATION_SECONDS - 1
    lease._may_take(held_by("other", version="2"))
    clock.seconds += DURATION_SECONDS - 1
    assert not lease._may_take(held_by("other", version="2"))


def test_taking_over_counts_a_transition_and_renewing_does_not() -> None:
    lease = make_lease(Clock())
    assert lease._manifest(held_by("other"))["spec"]["leaseTransitions"] == 4
    assert lease._manifest(held_by("me"))["spec"]["leaseTransitions"] == 3
    assert lease._manifest(held_by("other"))["spec"]["holderIdentity"] == "me"


def test_the_process_ends_when_the_lease_was_not_renewed(monkeypatch: pytest.MonkeyPatch) -> None:
    lease = make_lease(Clock())
    lease.renewed_at = lease_module.time.monotonic() - GIVE_UP_SECONDS
    ended = threading.Event()
    watch_renewal(lease, end_process=lambda _status: ended.set())
    assert ended.wait(timeout=5), "the watchdog thread did not end the process"


def test_the_last_write_is_over_before_anybody_else_may_take_the_lease() -> None:
    from spillway_operator.kube.client import REQUEST_TIMEOUT_SECONDS

    assert GIVE_UP_SECONDS + REQUEST_TIMEOUT_SECONDS <= DURATION_SECONDS
