"""What a person is told when an installation does not become ready."""

from __future__ import annotations

from typing import Any

import pytest

from dev.cluster.commands import ClusterError
from dev.cluster.installation import Installation, describe_unready
from dev.cluster.instance import E2E


def pod(name: str, **status: Any) -> dict[str, Any]:
    return {"metadata": {"name": name}, "status": status}


def test_tells_what_keeps_each_pod_and_says_nothing_of_ready_ones() -> None:
    taint = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "untolerated taint(s)"}
    unready = {"type": "Ready", "status": "False", "reason": "ContainersNotReady", "message": "containers: [operator]"}
    pull = {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}
    assert describe_unready(
        [
            pod("serving", phase="Running", conditions=[{"type": "Ready", "status": "True"}]),
            pod("homeless", phase="Pending", conditions=[taint]),
            pod("waiting", phase="Pending", conditions=[unready], containerStatuses=[{"state": pull}]),
            pod("slow", phase="Running", conditions=[unready], containerStatuses=[{"state": {"running": {}}}]),
            pod("fresh", phase="Pending"),
            pod("warned", phase="Pending", conditions=[unready]),
        ],
        [
            {"type": "Normal", "involvedObject": {"name": "fresh"}, "reason": "Scheduled", "message": "to a node"},
            {"type": "Warning", "involvedObject": {"name": "warned"}, "reason": "FailedMount", "message": "no folder"},
        ],
    ) == [
        "pod homeless: Unschedulable untolerated taint(s)",
        "pod waiting: ImagePullBackOff no such image",
        "pod slow: ContainersNotReady containers: [operator]",
        "pod fresh: Pending",
        "pod warned: FailedMount no folder",
    ]


@pytest.mark.parametrize(
    ("there", "says"),
    [
        ({"namespace spillway-system": ""}, "not by `e2e`"),
        ({"crd kvcachepools.spillway.dev": ""}, "uninstall it first"),
        ({"namespace spillway-system": "demo"}, "`make demo-down` removes it"),
        ({"namespace spillway-system": "e2e", "crd kvcachepools.spillway.dev": "demo"}, "`make demo-down` removes it"),
    ],
)
def test_somebody_elses_spillway_is_refused_with_the_way_out(
    monkeypatch: pytest.MonkeyPatch, there: dict[str, str], says: str
) -> None:
    installation = Installation.__new__(Installation)
    installation._instance = E2E
    monkeypatch.setattr(Installation, "made_by", lambda _: there)
    with pytest.raises(ClusterError, match=says):
        installation.install()
