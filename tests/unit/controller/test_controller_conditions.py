"""Each state of a pool and the words that its conditions find for it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from controller_builders import NOW, make_facts, make_observation, make_pod
from spillway_operator.api import Condition, Fault, Reason
from spillway_operator.controller.conditions import decide_conditions, reason_word, stamp_conditions
from spillway_operator.controller.facts import ATTACH_GRACE, PoolFacts, decide_members, next_change_seconds
from spillway_operator.controller.members import MemberCondition

TOO_SMALL = MemberCondition(type="StorageProvisioned", reason="VolumeTooSmall", message="asked for 100Gi, has 1Gi")
SMALL_ARENA = MemberCondition(type="Degraded", reason="ArenaSmallerThanAsked", message="half of it")


def decide(facts: PoolFacts) -> dict[Any, Any]:
    return dict(decide_conditions(facts, decide_members(facts)))


def assert_condition(facts: PoolFacts, kind: str, status: str, reason: str, says: str = "") -> None:
    seen = decide(facts)[kind]
    assert seen[:2] == (status, reason), seen
    assert says in seen[2]


def test_a_pool_without_pods_is_ready_to_take_some() -> None:
    facts = make_facts()
    assert_condition(facts, "Ready", "True", "NoPods")
    assert_condition(facts, "Degraded", "False", "NoFaults")
    assert_condition(facts, "Progressing", "False", "Reconciled")
    assert_condition(facts, "StorageProvisioned", "True", "DramOnly")


def test_all_pods_ready() -> None:
    facts = make_facts((make_pod("a"), make_observation()), (make_pod("b"), make_observation()))
    assert_condition(facts, "Ready", "True", "AllPodsReady", "2 of 2")


def test_a_starting_pod_is_progress() -> None:
    facts = make_facts((make_pod("a", ready=False), None))
    assert_condition(facts, "Ready", "False", "PodsNotReady", "0 of 1")
    assert_condition(facts, "Progressing", "True", "PodsNotReady")
    assert_condition(facts, "Degraded", "False", "NoFaults")


def test_an_outdated_pod_is_no_progress_and_no_fault() -> None:
    facts = make_facts((make_pod("a"), make_observation()), revision="r2")
    assert_condition(facts, "Progressing", "False", "PodsOutdated", "when re-created")
    assert_condition(facts, "Degraded", "False", "NoFaults")


def test_store_that_was_made_anew_is_news_of_a_volume_that_is_there() -> None:
    message = "/nvme/slot-0/chunks: the store was made anew: its file has 7 bytes"
    anew = MemberCondition(type="StorageProvisioned", status="True", reason="NvmeReformatted", message=message)
    pods = (make_pod("a"), make_observation()), (make_pod("b"), make_observation(anew))
    facts = make_facts(*pods, wants_nvme=True)
    says = f"1 of 2 pods: NvmeReformatted (b on node-1: {message})"
    assert_condition(facts, "StorageProvisioned", "True", "NvmeReformatted", says)
    assert_condition(facts, "Degraded", "False", "NoFaults")
    assert [(m.pod.name, m.reason) for m in decide_members(facts)] == [("b", "NvmeReformatted"), ("a", "")]
    worse = make_facts(*pods, (make_pod("c"), make_observation(TOO_SMALL)), wants_nvme=True)
    assert_condition(worse, "StorageProvisioned", "False", "VolumeTooSmall", "c on node-1")


def test_damaged_table_is_a_fault_that_says_what_was_lost_and_where() -> None:
    message = "/nvme/slot-0/chunks: 2 pages of the extent table are damaged, their extents' chunks are lost"
    damaged = MemberCondition(type="Degraded", status="True", reason="NvmeTableDamaged", message=message)
    facts = make_facts((make_pod("a"), make_observation(damaged)), wants_nvme=True)
    says = f"1 of 1 pods: NvmeTableDamaged (a on node-1: {message})"
    assert_condition(facts, "Degraded", "True", "NvmeTableDamaged", says)


def test_what_a_sidecar_reports_names_pod_reason_and_message() -> None:
    facts = make_facts(
        (make_pod("a"), make_observation()), (make_pod("b"), make_observation(TOO_SMALL)), wants_nvme=True
    )
    says = "1 of 2 pods: VolumeTooSmall (b on node-1: asked for 100Gi, has 1Gi)"
    assert_condition(facts, "StorageProvisioned", "False", "VolumeTooSmall", says)
    assert_condition(facts, "Degraded", "True", "VolumeTooSmall", says)
    assert_condition(facts, "Ready", "True", "AllPodsReady")


def test_a_storage_fault_is_seen_behind_another_fault() -> None:
    facts = make_facts((make_pod("a"), make_observation(SMALL_ARENA, TOO_SMALL)), wants_nvme=True)
    assert_condition(facts, "StorageProvisioned", "False", "VolumeTooSmall")
    assert_condition(facts, "Degraded", "True", "ArenaSmallerThanAsked")


def test_words_of_an_engine_that_goes_without_us_reach_the_pool() -> None:
    said = MemberCondition(
        type="Degraded",
        reason="EngineNeverAttached",
        message="the engine goes without Spillway: enable_prefix_caching is off",
    )
    facts = make_facts((make_pod("a"), make_observation(said)))
    assert_condition(
        facts, "Degraded", "True", "EngineNeverAttached", "a on node-1: the engine goes without Spillway: enable_pre"
    )


def test_a_stopped_engine_degrades_the_pool_and_is_named() -> None:
    stopped = MemberCondition(type="Degraded", reason="EngineStopped", message="engine 3 stands still inside a step")
    facts = make_facts((make_pod("a"), make_observation(stopped)))
    assert_condition(facts, "Degraded", "True", "EngineStopped", "a on node-1: engine 3 stands")


def test_storage_is_unknown_until_a_sidecar_reports() -> None:
    assert_condition(make_facts(wants_nvme=True), "StorageProvisioned", "Unknown", "NoPods")
    silent = make_facts((make_pod("a"), None), wants_nvme=True)
    assert_condition(silent, "StorageProvisioned", "Unknown", "SidecarsUnreachable")
    reported = make_facts((make_pod("a"), make_observation()), wants_nvme=True)
    assert_condition(reported, "StorageProvisioned", "True", "Provisioned")


def test_a_skipped_pod_degrades_and_says_why() -> None:
    pod = make_pod("a", injected=False, annotations={"spillway.dev/skipped": "host-ipc"})
    assert_condition(make_facts((pod, None)), "Degraded", "True", "PodsSkipped", "host-ipc")


def test_a_pod_that_asked_not_to_be_touched_is_no_fault() -> None:
    pod = make_pod("a", injected=False, labels={"spillway.dev/inject": "false"})
    assert_condition(make_facts((pod, None)), "Degraded", "False", "NoFaults")


@pytest.mark.parametrize("kind", ["Ready", "ConfigValid", "InjectionReady"])
def test_an_unusable_spec_is_said_everywhere_it_matters(kind: str) -> None:
    facts = make_facts(fault=Fault(Reason.HOST_PATH_NOT_ALLOWED, "name an allowed folder"))
    assert_condition(facts, kind, "False", "HostPathNotAllowed")


@pytest.mark.parametrize("kind", ["Ready", "InjectionReady"])
def test_a_webhook_that_does_not_serve(kind: str) -> None:
    facts = make_facts(webhook_problem="Service x has no ready replica")
    assert_condition(facts, kind, "False", "WebhookNotServing", "no ready replica")
    assert_condition(facts, "ConfigValid", "True", "Valid")


def test_an_engine_that_never_attached_is_a_fault_after_ten_minutes() -> None:
    seen = make_observation(attached=0)
    early = make_facts((make_pod("a", ready_at=NOW - ATTACH_GRACE + timedelta(seconds=30)), seen))
    assert_condition(early, "Degraded", "False", "NoFaults")
    assert next_change_seconds(early) == pytest.approx(31.0)
    late = make_facts((make_pod("a", ready_at=NOW - ATTACH_GRACE - timedelta(seconds=1)), seen))
    assert_condition(late, "Degraded", "True", "EngineNeverAttached")


def test_a_silent_sidecar_is_a_fault_after_a_minute() -> None:
    pod = make_pod("a", ready_at=NOW - timedelta(hours=1))
    assert_condition(make_facts((pod, make_observation(age_seconds=30))), "Degraded", "False", "NoFaults")
    assert_condition(make_facts((pod, make_observation(age_seconds=90))), "Degraded", "True", "SidecarUnreachable")


def test_a_sidecar_that_cannot_start_gives_the_kubelets_reason() -> None:
    pod = make_pod("a", ready=False, waiting="ImagePullBackOff")
    assert_condition(make_facts((pod, None)), "Degraded", "True", "ImagePullBackOff")


def test_members_come_worst_first() -> None:
    facts = make_facts(
        (make_pod("a"), make_observation()), (make_pod("b", ready=False), None),
        (make_pod("c"), make_observation(TOO_SMALL)), (make_pod("d", labels={"spillway.dev/revision": "r0"}), None),
    )  # fmt: skip
    assert [member.pod.name for member in decide_members(facts)] == ["c", "b", "d", "a"]


def test_the_transition_time_moves_only_with_the_status() -> None:
    before = Condition(type="Ready", status="True", reason="NoPods", last_transition_time=NOW - timedelta(days=1))
    same = stamp_conditions({"Ready": ("True", "AllPodsReady", "")}, [before], 2, NOW)[0]
    assert (same.last_transition_time, same.reason, same.observed_generation) == (
        before.last_transition_time, "AllPodsReady", 2,
    )  # fmt: skip
    flipped = stamp_conditions({"Ready": ("False", "PodsNotReady", "")}, [before], 2, NOW)[0]
    assert flipped.last_transition_time == NOW


@pytest.mark.parametrize(
    ("given", "word"), [("host-ipc", "HostIpc"), ("ErrImagePull", "ErrImagePull"), ("", "R"), ("3x", "R3x")]
)
def test_any_reason_becomes_a_word_the_api_admits(given: str, word: str) -> None:
    assert reason_word(given) == word
