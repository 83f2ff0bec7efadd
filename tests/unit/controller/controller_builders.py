"""Small builders for the controller's tests: every value has a default, name only what the test is about."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

from spillway_operator.api import KVCachePool, parse_pool
from spillway_operator.controller.facts import PoolFacts
from spillway_operator.controller.members import MemberCondition, MemberReport, Observation, TierReport, TokenReport
from spillway_operator.controller.observed import PodView, parse_pod

NOW = datetime(2026, 11, 24, 12, 0, 0, tzinfo=UTC)
POOL_UID = "0f0e0d0c-0b0a-0908-0706-050403020100"
GIB = 2**30


def make_pool_body(**overrides: Any) -> dict[str, Any]:
    body: dict[str, Any] = {
        "apiVersion": "spillway.dev/v1alpha1",
        "kind": "KVCachePool",
        "metadata": {
            "name": "chat", "namespace": "team-a", "uid": POOL_UID, "generation": 1, "resourceVersion": "10",
        },
        "spec": {"tiers": {"dram": {"capacity": "1Gi"}}},
    }  # fmt: skip
    metadata = overrides.pop("metadata", {})
    return {**body, **overrides, "metadata": {**body["metadata"], **metadata}}


def host_path_spec(path: str = "/mnt/nvme0") -> dict[str, Any]:
    nvme = {"capacity": "2Gi", "volume": {"type": "HostPath", "hostPath": {"path": path}}}
    return {"tiers": {"dram": {"capacity": "1Gi"}, "nvme": nvme}}


def make_pool(**overrides: Any) -> KVCachePool:
    return parse_pool(make_pool_body(**overrides))


def make_pod_body(
    name: str = "chat-0",
    *,
    injected: bool = True,
    ready: bool = True,
    ready_at: datetime = NOW,
    labels: dict[str, str] | None = None,
    annotations: dict[str, str] | None = None,
    waiting: str = "",
    node: str = "node-1",
    phase: str = "Running",
    **metadata: Any,
) -> dict[str, Any]:
    status: dict[str, Any] = {
        "phase": phase,
        "podIP": "10.0.0.1",
        "conditions": [{
            "type": "Ready", "status": "True" if ready else "False",
            "lastTransitionTime": ready_at.isoformat().replace("+00:00", "Z"),
        }],
    }  # fmt: skip
    if waiting:
        status["initContainerStatuses"] = [{"name": "spillway", "state": {"waiting": {"reason": waiting}}}]
    noted = {"spillway.dev/status": json.dumps({"poolUid": POOL_UID})} if injected else {}
    return {
        "metadata": {
            "name": name, "namespace": "team-a", "uid": f"uid-{name}", "resourceVersion": "5",
            "labels": {"spillway.dev/pool": "chat", "spillway.dev/revision": "r1", **(labels or {})},
            "annotations": {**noted, **(annotations or {})}, **metadata,
        },
        "spec": {"nodeName": node},
        "status": status,
    }  # fmt: skip


def make_pod(name: str = "chat-0", **overrides: Any) -> PodView:
    view = parse_pod(make_pod_body(name, **overrides))
    assert view is not None
    return view


def make_observation(
    *conditions: MemberCondition,
    used_bytes: int = GIB // 2,
    chunks: int = 100,
    looked_up: int = 100,
    loaded: int = 50,
    attached: int = 1,
    age_seconds: float = 0.0,
) -> Observation:
    dram = TierReport(name="dram", capacity_bytes=GIB, used_bytes=used_bytes, chunks=chunks)
    report = MemberReport(
        tiers=(dram,),
        tokens=TokenReport(looked_up=looked_up, dram=loaded),
        conditions=conditions,
        engines_attached=attached,
        engines_attached_ever=attached,
    )
    return Observation(report, NOW - timedelta(seconds=age_seconds))


def make_facts(*members: tuple[PodView, Observation | None], **overrides: Any) -> PoolFacts:
    pods = tuple(pod for pod, _ in members)
    values: dict[str, Any] = {
        "generation": 1, "fault": None, "webhook_problem": "", "pods": pods,
        "observations": tuple((pod, seen) for pod, seen in members if pod.injected),
        "revision": "r1", "wants_nvme": False, "now": NOW,
    }  # fmt: skip
    return PoolFacts(**{**values, **overrides})
