"""The injection breaker as a function of time and of what pods show."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from controller_builders import NOW, make_pod
from spillway_operator.api import InjectionStatus
from spillway_operator.controller.breaker import GRACE, TRY_AFTER, Failure, decide_injection, next_try_seconds
from spillway_operator.controller.observed import PodView

BEFORE, AFTER = NOW - timedelta(minutes=1), NOW + timedelta(minutes=1)


def stamp(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")


def pod(name: str = "chat-0", created_at: datetime = BEFORE, **overrides: Any) -> PodView:
    return make_pod(name, creationTimestamp=stamp(created_at), **{"ready": False, **overrides})


def failure(name: str = "chat-0", began: datetime = BEFORE, **overrides: Any) -> Failure:
    return Failure(pod(name, **overrides), "ImagePullBackOff", "no such image", began)


def started(name: str = "chat-0", at: datetime = AFTER, **overrides: Any) -> PodView:
    """A pod that was initialised then, and is ready."""
    return replace(pod(name, ready=True, **overrides), initialized_at=at)


def status(state: str, **overrides: Any) -> InjectionStatus:
    values = {"state": state, "reason": "ImagePullBackOff", "message": "m", "since": NOW, "revision": "r1", **overrides}
    return InjectionStatus.model_validate(values)


def test_breaker_that_never_opened_says_nothing() -> None:
    assert decide_injection(None, [], [pod()], "r1", NOW) is None


def test_failing_pod_opens_it_and_is_named() -> None:
    after = decide_injection(None, [failure()], [pod()], "r1", NOW)
    assert after is not None
    assert (after.state, after.reason, after.since, after.revision) == ("Open", "ImagePullBackOff", NOW, "r1")
    assert after.message == "pod chat-0: ImagePullBackOff: no such image"


def test_failing_pod_of_an_earlier_revision_does_not() -> None:
    assert decide_injection(None, [failure()], [pod()], "r2", NOW) is None


def test_another_revision_begins_closed() -> None:
    assert decide_injection(status("Open"), [failure()], [pod()], "r2", AFTER) is None


def test_open_breaker_stays_until_it_is_time_to_try() -> None:
    open_ = status("Open")
    assert decide_injection(open_, [failure()], [pod()], "r1", AFTER) == open_
    later = NOW + TRY_AFTER
    after = decide_injection(open_, [failure()], [pod()], "r1", later)
    assert after == status("Probing", since=later)
    assert next_try_seconds(open_, NOW) == TRY_AFTER.total_seconds() + 1.0
    assert next_try_seconds(status("Closed"), NOW) is None


def test_stuck_pod_that_gets_ready_closes_it() -> None:
    healed = started()
    after = decide_injection(status("Open"), [], [healed], "r1", AFTER)
    assert after == status("Closed", since=AFTER)


def test_pods_that_were_ready_before_it_opened_prove_nothing() -> None:
    healthy = started(at=BEFORE, ready_at=AFTER)
    assert decide_injection(status("Open"), [], [healthy], "r1", AFTER) == status("Open")
    assert decide_injection(status("Probing"), [], [healthy], "r1", AFTER) == status("Probing")


def test_trial_that_gets_ready_closes_it() -> None:
    stuck, tried = failure("old"), started("new")
    after = decide_injection(status("Probing"), [stuck], [stuck.pod, tried], "r1", AFTER)
    assert after == status("Closed", since=AFTER)


def test_trial_that_cannot_start_opens_it_again_and_older_ones_do_not() -> None:
    assert decide_injection(status("Probing"), [failure()], [pod()], "r1", AFTER) == status("Probing")
    tried = failure("new", began=AFTER)
    after = decide_injection(status("Probing"), [failure(), tried], [tried.pod], "r1", AFTER)
    assert after is not None
    assert (after.state, after.since) == ("Open", AFTER)
    assert "pod new" in after.message


def test_trial_that_waits_for_something_else_makes_room_for_another() -> None:
    later = NOW + TRY_AFTER
    assert decide_injection(status("Probing"), [], [pod()], "r1", later) == status("Probing", since=later)


def test_stuck_pod_of_before_does_not_open_it_anew() -> None:
    closed = status("Closed")
    assert decide_injection(closed, [failure()], [pod()], "r1", AFTER) == closed
    again = decide_injection(closed, [failure("new", began=AFTER)], [], "r1", AFTER)
    assert again is not None
    assert again.state == "Open"


def test_trial_that_came_late_is_judged_in_the_next_five_minutes() -> None:
    renewed = status("Probing", since=NOW)
    late = failure("late", began=NOW - GRACE)
    after = decide_injection(renewed, [late], [late.pod], "r1", AFTER)
    assert after is not None
    assert after.state == "Open"


def test_probe_of_a_running_pod_that_fails_once_is_no_start() -> None:
    flapped = started(at=BEFORE, ready_at=AFTER)
    for state in ("Open", "Probing"):
        assert decide_injection(status(state), [], [flapped], "r1", AFTER) == status(state)


def test_pod_that_was_made_before_it_closed_and_fails_later_opens_it() -> None:
    waited_for_a_gpu = failure(created_at=BEFORE, began=AFTER)
    after = decide_injection(status("Closed"), [waited_for_a_gpu], [], "r1", AFTER)
    assert after is not None
    assert after.state == "Open"
