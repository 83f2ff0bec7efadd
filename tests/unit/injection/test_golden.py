"""Whole pods in, whole pods out."""

from __future__ import annotations

import pytest
from golden_cases import Case, load_case, load_cases
from spillway_operator.api import SkipReason, names
from spillway_operator.injection import inject

CASES = load_cases()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_pod_becomes_what_the_golden_file_says(case: Case) -> None:
    assert case.run().pod == case.expected(), "if the change is meant: python tests/unit/injection/golden_cases.py"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_second_injection_changes_nothing(case: Case) -> None:
    once = case.run()
    twice = inject(once.pod, case.facts)
    assert twice.pod == once.pod
    assert twice.skip == once.skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_skip_changes_only_the_annotation(case: Case) -> None:
    outcome = case.run()
    assert case.name.startswith("skip-") == (outcome.skip is not None)
    if outcome.skip is not None:
        assert outcome.pod["spec"] == case.pod["spec"]
        annotations = dict(outcome.pod["metadata"]["annotations"])
        assert annotations.pop(names.SKIPPED_ANNOTATION) == outcome.skip.reason
        assert annotations.pop(names.SKIPPED_MESSAGE_ANNOTATION) == outcome.skip.message
        assert {**outcome.pod["metadata"], "annotations": annotations} == {"annotations": {}, **case.pod["metadata"]}


def test_every_skip_reason_of_injection_has_a_case() -> None:
    seen = {outcome.skip.reason for outcome in (case.run() for case in CASES) if outcome.skip is not None}
    # These are the webhook's own: tests/unit/webhook.
    assert seen == set(SkipReason) - {SkipReason.INJECTION_FAILED, SkipReason.NOT_ADMISSIBLE}


def test_input_is_not_changed() -> None:
    case = load_case("burstable")
    before = repr(case.pod)
    case.run()
    assert repr(case.pod) == before


@pytest.mark.parametrize("name", ["own-kv-transfer-config", "shell-command", "module-command"])
def test_image_command_and_args_stay(name: str) -> None:
    case = load_case(name)
    before, after = case.pod["spec"]["containers"][0], case.run().pod["spec"]["containers"][0]
    for field in ("image", "command", "args"):
        assert after.get(field) == before.get(field)


def test_sidecar_follows_the_users_init_containers() -> None:
    pod = load_case("after-own-init-containers").run().pod
    assert [c["name"] for c in pod["spec"]["initContainers"]] == ["download", "mesh", "spillway-client", "spillway"]


def test_nobody_but_ours_mounts_the_disk_and_the_disk_is_one_pools_folder() -> None:
    pod = load_case("hostpath").run().pod
    users = [
        container["name"]
        for container in [*pod["spec"]["initContainers"], *pod["spec"]["containers"]]
        if any(mount["name"] == names.NVME_VOLUME for mount in container.get("volumeMounts", []))
    ]
    assert users == [names.DISK_CONTAINER, names.SIDECAR_CONTAINER]
    (path,) = [volume["hostPath"]["path"] for volume in pod["spec"]["volumes"] if "hostPath" in volume]
    assert path == "/mnt/nvme0/team-a/3f1c7c58-6f0e-4a58-9c39-5f2f2a6d1b10"


def test_messages_say_what_to_do() -> None:
    outcome = load_case("skip-would-change-qos").run()
    assert outcome.skip is not None
    assert "1000m CPU with a limit of 2000m" in outcome.skip.message
    assert "remove spec.sidecar.resources.limits.cpu" in outcome.skip.message
