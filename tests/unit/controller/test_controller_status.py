"""When the status is written, and when it is not."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from controller_builders import GIB, NOW, make_facts, make_observation, make_pod, make_pool
from hypothesis import given
from hypothesis import strategies as st
from spillway_operator.api import PoolStatus
from spillway_operator.api.quantity import parse_bytes
from spillway_operator.controller.conditions import decide_conditions
from spillway_operator.controller.facts import Facts, decide_members
from spillway_operator.controller.members import MemberCondition
from spillway_operator.controller.status import StatusWrite, build_status, build_status_manifest, decide_write
from spillway_operator.controller.tiers import (
    LARGE_CHANGE_SECONDS,
    SLOW_SECONDS,
    build_tiers,
    round_bytes,
    seconds_until_write,
)


def status_of(facts: Facts, previous: PoolStatus | None = None) -> PoolStatus:
    members = decide_members(facts)
    return build_status(facts, members, decide_conditions(facts, members), previous or PoolStatus(), ["node-1"])


@given(
    ready=st.lists(st.booleans(), max_size=4),
    used=st.integers(0, 2**42),
    hits=st.integers(0, 1000),
    later=st.floats(0, 50),
)
def test_what_was_written_is_not_written_again(ready: list[bool], used: int, hits: int, later: float) -> None:
    members = [
        (make_pod(f"p{n}", ready=is_ready), make_observation(used_bytes=used, hits=hits, lookups=1000))
        for n, is_ready in enumerate(ready)
    ]
    facts = make_facts(*members)
    written = status_of(facts)
    stored = PoolStatus.model_validate(build_status_manifest(make_pool().metadata, written)["status"])
    again = replace(facts, now=NOW + timedelta(seconds=later))
    assert decide_write(stored, status_of(again, stored), again).status is None


def test_a_condition_that_changed_is_written_at_once_and_takes_the_tiers_along() -> None:
    before = status_of(make_facts((make_pod(), make_observation(used_bytes=GIB // 2))))
    facts = make_facts((make_pod(ready=False), make_observation(used_bytes=GIB // 2 + 2**20)))
    decision = decide_write(before, status_of(facts, before), facts)
    assert decision.status is not None
    assert decision.status.tiers != before.tiers


def test_a_restart_is_no_news_of_a_pool_while_its_sidecars_are_unread() -> None:
    """One sidecar is read after the other: until all are, what was known before stands."""
    fault = MemberCondition(type="StorageProvisioned", reason="VolumeTooSmall", message="4 GiB are free")
    pods = [make_pod(name) for name in ("a", "b", "c")]
    seen = [make_observation(fault), make_observation(), make_observation()]
    before = status_of(make_facts(*zip(pods, seen, strict=True), wants_nvme=True))
    stored = PoolStatus.model_validate(build_status_manifest(make_pool().metadata, before)["status"])
    for read in range(len(pods)):
        known = [*seen[:read], *[None] * (len(pods) - read)]
        facts = make_facts(*zip(pods, known, strict=True), wants_nvme=True, just_begun=True)
        assert facts.unread
        assert decide_write(stored, status_of(facts, stored), facts) == StatusWrite(None)
    # What the API server says of pods is known at once, and after a minute a sidecar that is silent is so.
    gone = make_facts((pods[0], None), wants_nvme=True, just_begun=True)
    assert decide_write(stored, status_of(gone, stored), gone).status is not None
    silent = make_facts(*[(pod, None) for pod in pods], wants_nvme=True)
    assert decide_write(stored, status_of(silent, stored), silent).status is not None


def test_tiers_stay_as_they_were_until_somebody_reports() -> None:
    before = status_of(make_facts((make_pod(), make_observation())))
    assert status_of(make_facts((make_pod(), None)), before).tiers == before.tiers
    assert status_of(make_facts()).tiers == ()


def test_members_are_twenty_at_most() -> None:
    facts = make_facts(*[(make_pod(f"p{n:02}"), make_observation()) for n in range(25)])
    status = status_of(facts)
    assert len(status.members) == 20
    assert status.pods is not None
    assert (status.pods.labelled, status.pods.injected, status.pods.ready) == (25, 25, 25)


def test_tiers_are_summed_over_the_sidecars() -> None:
    (dram,) = build_tiers([make_observation(hits=1, lookups=4), None, make_observation(hits=3, lookups=4)])
    assert (dram.name, dram.capacity, dram.used, dram.chunks, dram.hit_ratio) == ("dram", "2Gi", "1Gi", 200, "0.50")


def test_no_lookup_is_no_ratio() -> None:
    (dram,) = build_tiers([make_observation(hits=0, lookups=0)])
    assert dram.hit_ratio is None


def test_the_first_figures_are_written_at_once() -> None:
    assert seconds_until_write((), build_tiers([make_observation()]), NOW) == 0.0


@pytest.mark.parametrize(
    ("used_bytes", "hits", "age_seconds", "wait_seconds"),
    [
        pytest.param(GIB // 2, 50, 1000, None, id="same figures: never"),
        pytest.param(GIB // 2 + 1, 50, 1000, None, id="same when rounded: never"),
        pytest.param(GIB // 2 + GIB // 50, 50, 100, SLOW_SECONDS - 100, id="a little: after five minutes"),
        pytest.param(GIB // 2 + GIB // 50, 50, 400, 0, id="a little, long ago: now"),
        pytest.param(GIB // 4, 50, 5, LARGE_CHANGE_SECONDS - 5, id="a lot of bytes: after 15 s"),
        pytest.param(GIB // 2, 80, 20, 0, id="a lot of hits: now, as 15 s have passed"),
    ],
)
def test_the_pace_of_slow_figures(used_bytes: int, hits: int, age_seconds: float, wait_seconds: float | None) -> None:
    written = build_tiers([make_observation(age_seconds=age_seconds)])
    current = build_tiers([make_observation(used_bytes=used_bytes, hits=hits)])
    assert seconds_until_write(written, current, NOW) == wait_seconds


@given(st.integers(0, 2**55))
def test_rounded_bytes_are_a_quantity_near_the_truth(size_bytes: int) -> None:
    rounded = parse_bytes(round_bytes(size_bytes))
    assert abs(rounded - size_bytes) <= size_bytes * 0.006 + 1


@pytest.mark.parametrize(
    ("size_bytes", "text"), [(0, "0"), (1023, "1023"), (GIB, "1Gi"), (1234567890, "1.15Gi"), (700 * GIB, "700Gi")]
)
def test_rounded_bytes_read_well(size_bytes: int, text: str) -> None:
    assert round_bytes(size_bytes) == text
