"""InjectionReady is what a pod created on trial shows, not what the parts look like."""

from __future__ import annotations

from typing import Any

import pytest
from memory_api import MemoryApi
from spillway_operator.api import names
from spillway_operator.controller import webhook_health
from spillway_operator.controller.webhook_health import WebhookHealth
from spillway_operator.kube.client import DryRun
from spillway_operator.kube.errors import ApiError
from spillway_operator.kube.resources import ENDPOINT_SLICES, WEBHOOK_CONFIGURATIONS, Manifest, Resource

CALLED = f'299 - "{names.PROBE_ANSWER}"'


class TryingApi(MemoryApi):
    """Sound configuration and replicas; what a trial brings in a namespace is the test's. None: the webhook is called."""

    def __init__(self) -> None:
        super().__init__()
        client_config = {"caBundle": "x", "service": {"path": "/inject/" + "0" * 64}}
        self.put(
            WEBHOOK_CONFIGURATIONS, {"metadata": {"name": "spillway"}, "webhooks": [{"clientConfig": client_config}]}
        )
        labels = {"kubernetes.io/service-name": "spillway-webhook"}
        self.put(
            ENDPOINT_SLICES,
            {
                "metadata": {"name": "a", "namespace": "spillway-system", "labels": labels},
                "endpoints": [{"conditions": {"ready": True}}],
            },
        )
        self.brings: dict[str, DryRun | ApiError] = {}
        self.tried: list[str] = []

    async def dry_run(self, manifest: Manifest, resource: Resource) -> DryRun:
        namespace = manifest["metadata"]["namespace"]
        assert manifest["metadata"]["labels"] == {names.POOL_LABEL: names.PROBE_POOL}
        self.tried.append(namespace)
        brought = self.brings.get(namespace, annotated({names.PROBED_ANNOTATION: "true"}))
        if isinstance(brought, ApiError):
            raise brought
        return brought


def annotated(annotations: dict[str, str], warnings: str = "") -> DryRun:
    return DryRun({"metadata": {"annotations": annotations}}, warnings)


class Watched:
    """The health of a webhook whose pools are in some namespaces; counts its changes."""

    def __init__(self, *namespaces: str) -> None:
        self.api = TryingApi()
        self.changes = 0
        self.namespaces = list(namespaces)
        self.health = WebhookHealth(
            self.api,
            "spillway-system",
            "spillway-webhook",
            "spillway",
            "control:1",
            find_namespaces=lambda: self.namespaces,
            on_change=self._count,
        )

    def _count(self) -> None:
        self.changes += 1

    async def problem(self, namespace: str = "team-a") -> str:
        return await self.health.problem_in(namespace)


NOT_CALLED = annotated({})
SKIPPED = {names.SKIPPED_ANNOTATION: "injection-failed", names.SKIPPED_MESSAGE_ANNOTATION: "get /apis: timed out"}


@pytest.mark.parametrize(
    ("brought", "problem"),
    [
        (annotated({names.PROBED_ANNOTATION: "true"}), ""),
        (DryRun(None, CALLED), ""),  # refused by a policy after its turn
        (DryRun(None, ""), ""),  # refused, maybe before its turn: no verdict
        (ApiError(0, "POST", "/pods", "timed out"), ""),
        (NOT_CALLED, "the webhook was not called"),
        (annotated(SKIPPED), "injection-failed: get /apis: timed out"),
    ],
    ids=["called", "refused after", "refused", "no answer", "not called", "cut off"],
)
async def test_what_a_trial_says(brought: Any, problem: str) -> None:
    watched = Watched("team-a")
    watched.api.brings["team-a"] = brought
    said = await watched.problem()
    assert problem in said if problem else said == ""


async def test_namespace_that_is_left_out_is_no_matter_of_the_others() -> None:
    watched = Watched("left-out", "team-a")
    watched.api.brings["left-out"] = NOT_CALLED
    assert await watched.problem("left-out")
    assert await watched.problem("team-a") == ""


async def test_problems_are_counted_by_namespace_or_as_one_for_all() -> None:
    watched = Watched("left-out", "team-a")
    watched.api.brings["left-out"] = NOT_CALLED
    for namespace in watched.namespaces:
        await watched.problem(namespace)
    assert watched.health.count_problems() == 1
    watched.api.brings["left-out"] = annotated({names.PROBED_ANNOTATION: "true"})
    await watched.health.look()
    assert watched.health.count_problems() == 0
    watched.health.problem = "no ready replica"
    assert watched.health.count_problems() == 1


async def test_answer_is_asked_for_once_and_then_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhook_health, "PROBES_PER_LOOK", 1)
    watched = Watched("a", "b")
    for _ in range(3):
        assert await watched.problem("a") == await watched.problem("b") == ""
    assert watched.api.tried == ["a", "b"]
    for _ in range(4):
        await watched.health.look()
    assert watched.api.tried == ["a", "b", "a", "b", "a", "b"]
    assert watched.changes == 0


async def test_webhook_that_is_no_longer_called_is_told_to_every_pool_at_once() -> None:
    watched = Watched("a", "b")
    assert await watched.problem("a") == await watched.problem("b") == ""
    watched.api.brings = {"a": NOT_CALLED, "b": NOT_CALLED}
    await watched.health.look()
    assert watched.changes == 1
    assert await watched.problem("a")
    assert await watched.problem("b")
    watched.api.brings = {}
    await watched.health.look()
    assert watched.changes == 2
    assert await watched.problem("a") == await watched.problem("b") == ""


async def test_namespace_without_pools_is_asked_about_no_more() -> None:
    watched = Watched("a", "b")
    await watched.problem("a")
    await watched.problem("b")
    watched.namespaces = ["b"]
    watched.api.tried.clear()
    await watched.health.look()
    assert watched.api.tried == ["b"]


async def test_sound_parts_are_looked_at_before_anything_is_tried() -> None:
    watched = Watched("team-a")
    watched.api.drop(ENDPOINT_SLICES, "a")
    await watched.health.look()
    assert "no ready replica" in await watched.problem()
    assert watched.api.tried == []
