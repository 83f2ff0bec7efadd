"""When the status is written, and when it is not."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from controller_builders import GIB, NOW, make_facts, make_observation, make_pod, make_pool
from hypothesis import given
from hypothesis import strategies as st
from spillway_operator.api import HitStatus, PoolStatus
from spillway_operator.api.quantity import parse_bytes
from spillway_operator.controller.conditions import decide_conditions
from spillway_operator.controller.facts import PoolFacts, decide_members
from spillway_operator.controller.members import MemberCondition, MemberReport, Observation, TierReport, TokenReport
from spillway_operator.controller.pace import CALM_SECONDS, FREE_WRITES, LONGEST_PAUSE_SECONDS, Burst
from spillway_operator.controller.status import (
    StatusWrite,
    build_status,
    build_status_manifest,
    count_write,
    decide_write,
)
from spillway_operator.controller.tiers import (
    LARGE_CHANGE_SECONDS,
    SLOW_SECONDS,
    build_hit,
    build_tiers,
    round_bytes,
    seconds_until_write,
)


def status_of(facts: PoolFacts, previous: PoolStatus | None = None) -> PoolStatus:
    members = decide_members(facts)
    return build_status(facts, members, decide_conditions(facts, members), previous or PoolStatus(), ["node-1"])


@given(
    ready=st.lists(st.booleans(), max_size=4),
    used=st.integers(0, 2**42),
    loaded=st.integers(0, 1000),
    later=st.floats(0, 50),
)
def test_what_was_written_is_not_written_again(ready: list[bool], used: int, loaded: int, later: float) -> None:
    members = [
        (make_pod(f"p{n}", ready=is_ready), make_observation(used_bytes=used, loaded=loaded, looked_up=1000))
        for n, is_ready in enumerate(ready)
    ]
    facts = make_facts(*members)
    written = status_of(facts)
    stored = PoolStatus.model_validate(build_status_manifest(make_pool().metadata, written)["status"])
    again = replace(facts, now=NOW + timedelta(seconds=later))
    assert decide_write(stored, status_of(again, stored), again, Burst()).status is None


def test_a_condition_that_changed_is_written_at_once_and_takes_the_tiers_along() -> None:
    before = status_of(make_facts((make_pod(), make_observation(used_bytes=GIB // 2))))
    facts = make_facts((make_pod(ready=False), make_observation(used_bytes=GIB // 2 + 2**20)))
    decision = decide_write(before, status_of(facts, before), facts, Burst())
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
        assert decide_write(stored, status_of(facts, stored), facts, Burst()) == StatusWrite(None)
    # What the API server says of pods is known at once, and after a minute a sidecar that is silent is so.
    gone = make_facts((pods[0], None), wants_nvme=True, just_begun=True)
    assert decide_write(stored, status_of(gone, stored), gone, Burst()).status is not None
    silent = make_facts(*[(pod, None) for pod in pods], wants_nvme=True)
    assert decide_write(stored, status_of(silent, stored), silent, Burst()).status is not None


def test_tiers_stay_as_they_were_until_somebody_reports() -> None:
    before = status_of(make_facts((make_pod(), make_observation())))
    assert status_of(make_facts((make_pod(), None)), before).tiers == before.tiers
    assert status_of(make_facts()).tiers == ()


def slow(*observations: Observation) -> PoolStatus:
    return PoolStatus(tiers=build_tiers(observations), hit=build_hit(observations))


def test_members_are_twenty_at_most() -> None:
    facts = make_facts(*[(make_pod(f"p{n:02}"), make_observation()) for n in range(25)])
    status = status_of(facts)
    assert len(status.members) == 20
    assert status.pods is not None
    assert (status.pods.labelled, status.pods.injected, status.pods.ready) == (25, 25, 25)


def test_tiers_are_summed_over_the_sidecars() -> None:
    (dram,) = build_tiers([make_observation(), None, make_observation()])
    assert (dram.name, dram.capacity, dram.used, dram.chunks) == ("dram", "2Gi", "1Gi", 200)


def observe(tokens: TokenReport | None, *tiers: str) -> Observation:
    reports = tuple(TierReport(name=name, capacity_bytes=GIB, used_bytes=0, chunks=0) for name in tiers)
    return Observation(MemberReport(tiers=reports, tokens=tokens), NOW)


def test_hit_is_what_was_loaded_from_any_tier_of_what_was_looked_up_over_all_sidecars() -> None:
    from_nvme = observe(TokenReport(looked_up=3000, nvme=2700, other=30), "dram", "nvme")
    from_dram = observe(TokenReport(looked_up=1000, dram=400), "dram", "nvme")
    assert build_hit([from_nvme, None, from_dram]) == HitStatus(ratio="0.78", dram="0.10", nvme="0.68", other="0.01")
    assert build_hit([from_nvme]) == HitStatus(ratio="0.91", dram="0.00", nvme="0.90", other="0.01")


def test_tier_that_no_sidecar_has_has_no_share() -> None:
    assert build_hit([observe(TokenReport(looked_up=10, dram=5), "dram")]) == HitStatus(ratio="0.50", dram="0.50")


@pytest.mark.parametrize("tokens", [None, TokenReport(looked_up=0)], ids=["an older sidecar", "no lookup"])
def test_no_lookup_is_no_ratio(tokens: TokenReport | None) -> None:
    assert build_hit([observe(tokens, "dram"), None]) is None


def test_hit_stays_as_it_was_until_somebody_reports() -> None:
    before = status_of(make_facts((make_pod(), make_observation(loaded=80))))
    assert before.hit == HitStatus(ratio="0.80", dram="0.80")
    assert status_of(make_facts((make_pod(), None)), before).hit == before.hit
    unread = make_facts((make_pod(), make_observation(loaded=10)), (make_pod("b"), None), just_begun=True)
    assert status_of(unread, before).hit == before.hit


def test_the_first_figures_are_written_at_once() -> None:
    assert seconds_until_write(PoolStatus(), slow(make_observation()), NOW) == 0.0


@pytest.mark.parametrize(
    ("used_bytes", "loaded", "age_seconds", "wait_seconds"),
    [
        pytest.param(GIB // 2, 50, 1000, None, id="same figures: never"),
        pytest.param(GIB // 2 + 1, 50, 1000, None, id="same when rounded: never"),
        pytest.param(GIB // 2 + GIB // 50, 50, 100, SLOW_SECONDS - 100, id="a little: after five minutes"),
        pytest.param(GIB // 2 + GIB // 50, 50, 400, 0, id="a little, long ago: now"),
        pytest.param(GIB // 4, 50, 5, LARGE_CHANGE_SECONDS - 5, id="a lot of bytes: after 15 s"),
        pytest.param(GIB // 2, 80, 20, 0, id="a lot more was loaded: now, as 15 s have passed"),
        pytest.param(GIB // 2, 52, 20, SLOW_SECONDS - 20, id="a little more was loaded: after five minutes"),
    ],
)
def test_the_pace_of_slow_figures(used_bytes: int, loaded: int, age_seconds: float, wait_seconds: float | None) -> None:
    written = slow(make_observation(age_seconds=age_seconds))
    current = slow(make_observation(used_bytes=used_bytes, loaded=loaded))
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


def later(facts: PoolFacts, seconds: float) -> PoolFacts:
    return replace(facts, now=NOW + timedelta(seconds=seconds))


def in_a_burst(writes: int) -> Burst:
    """So many writes lie behind, the last of them now; both free turns were taken."""
    burst = Burst()
    burst.see(None, NOW)
    for _ in range(writes):
        burst.count(NOW, turned=True)
    return burst


def test_counts_wait_ever_longer_while_they_change_and_no_longer_than_they_stand() -> None:
    before = status_of(make_facts((make_pod("a"), None), (make_pod("b", ready=False), None)))
    facts = make_facts((make_pod("a"), None), (make_pod("b", ready=False), None), (make_pod("c", ready=False), None))
    current = status_of(facts, before)
    assert current.pods != before.pods
    assert decide_write(before, current, facts, Burst()).status == current
    waits = [decide_write(before, current, facts, in_a_burst(writes)).again_seconds for writes in (2, 3, 4, 6, 8, 30)]
    assert waits == [None, 1, 2, 8, 10, 75], "from the fifth on, what stands is written before its pause is over"


def test_condition_that_turned_waits_a_quarter_once_a_burst_had_its_free_turns() -> None:
    before = status_of(make_facts((make_pod("a"), None)))
    facts = make_facts((make_pod("a", ready=False), None))
    current = status_of(facts, before)
    assert decide_write(before, current, facts, in_a_burst(FREE_WRITES + 3)).again_seconds == 2
    burst = Burst()
    for _ in range(FREE_WRITES + 3):
        burst.count(NOW, turned=False)
    assert decide_write(before, current, facts, burst).status == current


def test_what_others_act_on_never_waits() -> None:
    before = status_of(make_facts((make_pod("a"), None)))
    for facts in (
        make_facts((make_pod("a"), None), generation=2),
        make_facts((make_pod("a"), None), revision="r2"),
        make_facts((make_pod("a"), None), webhook_problem="no replica is ready"),
    ):
        assert decide_write(before, status_of(facts, before), facts, in_a_burst(30)).status is not None
    facts = make_facts((make_pod("a"), None))
    moved = status_of(facts, before).model_copy(update={"disk": None})
    assert decide_write(before, moved, facts, in_a_burst(30)).status is not None


def test_slow_facts_do_not_make_a_pool_restless() -> None:
    before = status_of(make_facts((make_pod(), make_observation(used_bytes=GIB // 4))))
    facts = make_facts((make_pod(), make_observation(used_bytes=GIB // 2)))
    burst = Burst()
    for _ in range(10):
        count_write(before, status_of(facts, before), facts, burst)
    assert burst == Burst()


def test_calm_ends_a_burst() -> None:
    before = status_of(make_facts((make_pod("a"), None)))
    facts = make_facts((make_pod("a"), None), (make_pod("b"), None))
    burst = in_a_burst(30)
    assert (
        decide_write(
            before, status_of(facts, before), later(facts, CALM_SECONDS + 2 * LONGEST_PAUSE_SECONDS + 1), burst
        ).status
        is not None
    )
    assert burst.writes == 0


def test_restart_keeps_a_fault_that_only_a_sidecar_tells_of_among_hundreds() -> None:
    """The worst twenty of 30 pods: the one with the fault is no longer among them until its sidecar was read."""
    fault = MemberCondition(type="Degraded", reason="NvmeIoError", message="EIO")
    pods = [make_pod(f"p{n:02}") for n in range(30)]
    seen = [make_observation(fault) if n == 29 else make_observation() for n in range(30)]
    before = status_of(make_facts(*zip(pods, seen, strict=True)))
    assert before.members[0].pod == "p29"
    stored = PoolStatus.model_validate(build_status_manifest(make_pool().metadata, before)["status"])
    facts = make_facts(*[(pod, None) for pod in pods], just_begun=True)
    assert decide_write(stored, status_of(facts, stored), facts, Burst()) == StatusWrite(None)
