"""A pod is a tenant's: whatever its annotations and its /status say, no reconcile fails and nothing grows without end."""

from __future__ import annotations

import json
from typing import Any

import pytest
from controller_builders import make_pod_body
from pydantic import ValidationError
from rig import Rig
from spillway_operator.controller.members import MemberReport
from spillway_operator.controller.observed import Observed, PoolKey
from spillway_operator.injection import MAX_MESSAGE_CHARACTERS
from spillway_operator.kube.resources import EVENTS
from spillway_operator.metrics import PODS_SKIPPED

SOUND = {"name": "dram", "capacity_bytes": 1, "used_bytes": 1, "chunks": 1}


@pytest.mark.parametrize(
    "report",
    [
        *({"tiers": [{**SOUND, field: 10**40}]} for field in ("capacity_bytes", "used_bytes", "chunks")),
        *({"tokens": {"looked_up": 1, field: 10**40}} for field in ("looked_up", "dram", "nvme", "other")),
        {"tiers": [SOUND] * 1000},
        {"conditions": [{"type": "Degraded", "reason": "X"}] * 1000},
        {"engines_attached_ever": 10**40},
    ],
    ids=lambda report: json.dumps(report)[:60],
)
def test_a_report_beyond_all_bounds_is_unreadable(report: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        MemberReport.model_validate_json(json.dumps(report))


def skipped_with(word: str) -> dict[str, Any]:
    body = make_pod_body("chat-0")
    body["metadata"]["annotations"] = {"spillway.dev/skipped": word}
    return body


def test_edits_of_the_skip_reason_are_one_change() -> None:
    observed = Observed()
    changes = [bool(observed.put_pod(skipped_with(f"x{number}"))) for number in range(300)]
    assert sum(changes) == 1


def test_edits_of_the_skip_message_change_nothing_and_are_bounded() -> None:
    observed = Observed()
    body = skipped_with("host-ipc")
    changes = []
    for number in range(300):
        body["metadata"]["annotations"]["spillway.dev/skipped-message"] = f"{number}\n\x1b[2J" + "y" * 5000
        changes.append(bool(observed.put_pod(body)))
    assert sum(changes) == 1
    (pod,) = observed.pods(PoolKey(body["metadata"]["namespace"], "chat"))
    assert len(pod.skip_message) <= MAX_MESSAGE_CHARACTERS
    assert pod.skip_message.isprintable()


async def test_edits_of_the_skip_reason_are_one_event_and_no_label_values() -> None:
    rig = Rig()
    for word in [*(f"x{number}" for number in range(300)), "host-ipc", "pool-invalid"]:
        rig.controller.see_pod({"type": "MODIFIED", "object": skipped_with(word)})
        await rig.reconcile()
    assert len(rig.api.kind(EVENTS)) == 1
    values = {sample.labels["reason"] for metric in PODS_SKIPPED.collect() for sample in metric.samples}
    assert not any(value.startswith("x") for value in values)
