"""From symptom to an open breaker and to a pod that its owner makes again, over an API server in memory."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from controller_builders import NOW, make_pod_body
from memory_api import MemoryApi
from rig import Rig
from spillway_operator.api import InjectionStatus
from spillway_operator.controller import stuck_pods
from spillway_operator.controller.breaker import GRACE, TRY_AFTER
from spillway_operator.controller.observed import PodView, PoolKey, parse_pod
from spillway_operator.controller.stuck_pods import ASKED_PODS, SILENCE, SPREAD, StuckPods, names_our_volume
from spillway_operator.kube.errors import ApiError
from spillway_operator.kube.resources import EVENTS, PODS

KEY = PoolKey("team-a", "chat")
OPEN = InjectionStatus(state="Open", since=NOW, revision="r1")
CLAIM = {"name": "spillway-nvme", "ephemeral": {}}
LATER = NOW + GRACE


def stuck_body(name: str = "chat-0", owner: str = "ReplicaSet", **overrides: Any) -> dict[str, Any]:
    owners = [{"kind": owner, "controller": True}] if owner else []
    values = {"waiting": "ImagePullBackOff", "phase": "Pending", "ready": False, **overrides}
    return make_pod_body(name, ownerReferences=owners, **values)


def unbound_body(name: str = "chat-0", *volumes: dict[str, Any]) -> dict[str, Any]:
    body = stuck_body(name, waiting="", node="")
    body["spec"]["volumes"] = [CLAIM, *volumes]
    body["status"]["conditions"].append({
        "type": "PodScheduled", "status": "False", "reason": "Unschedulable",
        "message": "0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims.",
    })  # fmt: skip
    return body


def view(body: dict[str, Any]) -> PodView:
    seen = parse_pod(body)
    assert seen is not None
    return seen


def put_event(api: MemoryApi, name: str, reason: str, message: str, uid: str = "") -> None:
    involved = {"name": name, "uid": uid}
    manifest = {"metadata": {"name": f"{name}.{reason}", "namespace": "team-a"}, "involvedObject": involved}
    api.put(EVENTS, {**manifest, "reason": reason, "message": message})


async def failing(stuck: StuckPods, *pods: PodView, after: timedelta = GRACE) -> dict[str, str]:
    """Pod and message of every failure, `after` its symptom was first seen."""
    await stuck.find_failures(pods, NOW)
    failures, _ = await stuck.find_failures(pods, NOW + after)
    return {failure.pod.name: failure.message for failure in failures}


async def test_symptom_counts_once_it_has_lasted() -> None:
    stuck = StuckPods(MemoryApi())
    failures, again_seconds = await stuck.find_failures([view(stuck_body())], NOW)
    assert not failures
    assert again_seconds == pytest.approx(GRACE.total_seconds(), abs=1)
    failures, _ = await stuck.find_failures([view(stuck_body())], LATER)
    assert [failure.reason for failure in failures] == ["ImagePullBackOff"]


async def test_symptom_that_went_away_counts_anew() -> None:
    stuck = StuckPods(MemoryApi())
    await stuck.find_failures([view(stuck_body())], NOW)
    await stuck.find_failures([view(stuck_body(waiting=""))], NOW)
    failures, _ = await stuck.find_failures([view(stuck_body())], LATER)
    assert not failures


async def test_slow_provisioner_is_none_until_it_says_that_it_failed() -> None:
    api = MemoryApi()
    assert not await failing(StuckPods(api), view(unbound_body()))
    put_event(api, "chat-0-spillway-nvme", "ProvisioningFailed", 'storageclass "missing" not found')
    words = await failing(StuckPods(api), view(unbound_body()))
    assert words == {"chat-0": 'claim chat-0-spillway-nvme: storageclass "missing" not found'}


async def test_provisioner_that_says_nothing_is_not_waited_for_without_end() -> None:
    assert await failing(StuckPods(MemoryApi()), view(unbound_body()), after=SILENCE)
    theirs = {"name": "models", "persistentVolumeClaim": {"claimName": "models"}}
    assert not await failing(StuckPods(MemoryApi()), view(unbound_body("chat-0", theirs)), after=SILENCE)


async def test_volume_that_cannot_be_mounted_counts_only_if_it_is_ours() -> None:
    api, waits = MemoryApi(), view(stuck_body(waiting=""))
    put_event(
        api, "chat-0", "FailedMount", 'MountVolume.SetUp failed for volume "key" : secret "key" not found', "uid-chat-0"
    )
    assert not await failing(StuckPods(api), waits)
    put_event(api, "chat-0", "FailedMount", 'MountVolume.SetUp failed for volume "spillway-nvme" : x', "uid-of-another")
    assert not await failing(StuckPods(api), waits)
    put_event(api, "chat-0", "FailedMount", 'MountVolume.SetUp failed for volume "spillway-nvme" : x', "uid-chat-0")
    assert await failing(StuckPods(api), waits)


@pytest.mark.parametrize(
    ("message", "ours"),
    [
        ("unmounted volumes=[spillway-nvme], unattached volumes=[key spillway-nvme]: timed out", True),
        ("unmounted volumes=[key], unattached volumes=[key spillway-nvme]: timed out", False),
        ("unmounted volumes=[key spillway-nvme], unattached volumes=[]: timed out", False),
        ("ephemeral volume spillway-nvme: exceeded quota", True),
    ],
)
def test_kubelet_names_the_volume(message: str, ours: bool) -> None:
    assert names_our_volume(message) is ours


async def test_rollout_of_hundreds_asks_for_events_of_a_few() -> None:
    asked: list[str] = []

    class CountingApi(MemoryApi):
        async def list(self, *args: Any, **kwargs: Any) -> list[dict[str, Any]]:
            asked.append(kwargs["field_selector"])
            return await super().list(*args, **kwargs)

    stuck = StuckPods(CountingApi())
    await failing(stuck, *(view(stuck_body(f"chat-{i}", waiting="")) for i in range(200)))
    assert len(asked) == 2 * ASKED_PODS


async def restarted(
    body: dict[str, Any], status: InjectionStatus | None = OPEN, stored: dict[str, Any] | None = None
) -> bool:
    """Whether the pod of `body`, which is seen as stuck, was deleted; it is stored as `stored` by then."""
    api = MemoryApi()
    api.put(PODS, body if stored is None else stored)
    stuck = StuckPods(api)
    await stuck.find_failures([view(body)], NOW)
    failures, _ = await stuck.find_failures([view(body)], LATER)
    await stuck.restart(KEY, status, failures, 1, LATER)
    return not api.kind(PODS)


@pytest.mark.parametrize("owner", ["ReplicaSet", "StatefulSet", "DaemonSet"])
async def test_stuck_pod_that_is_made_again_is_deleted(owner: str) -> None:
    assert await restarted(stuck_body(owner=owner))


@pytest.mark.parametrize("owner", ["Job", ""])
async def test_pod_that_nobody_makes_again_is_left(owner: str) -> None:
    assert not await restarted(stuck_body(owner=owner))


async def test_pod_that_began_is_left() -> None:
    begun = stuck_body()
    begun["status"]["containerStatuses"] = [{"name": "vllm", "state": {"running": {}}}]
    assert not await restarted(begun)
    assert not await restarted(stuck_body(), stored=begun)


@pytest.mark.parametrize(
    "status", [None, OPEN.model_copy(update={"state": "Probing"}), OPEN.model_copy(update={"revision": "r2"})]
)
async def test_stuck_pod_is_made_again_whatever_became_of_the_breaker(status: InjectionStatus | None) -> None:
    """Whoever mended the pool meanwhile helps no pod that was made before."""
    assert await restarted(stuck_body(), status=status)


async def test_pod_whose_deletion_is_refused_keeps_no_other_waiting() -> None:
    class Strict(MemoryApi):
        async def delete(self, resource: Any, name: str, *args: Any, **kwargs: Any) -> None:
            if name == "chat-0":
                raise ApiError(403, "DELETE", "/pods/chat-0", "denied by a policy")
            await super().delete(resource, name, *args, **kwargs)

    api, bodies = Strict(), [stuck_body(f"chat-{i}") for i in range(2)]
    for body in bodies:
        api.put(PODS, body)
    stuck, pods = StuckPods(api), [view(body) for body in bodies]
    await stuck.find_failures(pods, NOW - GRACE)
    failures, _ = await stuck.find_failures(pods, NOW)
    with pytest.raises(ApiError):
        await stuck.restart(KEY, None, failures, 20, NOW)
    await stuck.restart(KEY, None, failures, 20, NOW + timedelta(minutes=1))
    assert [pod["metadata"]["name"] for pod in api.kind(PODS)] == ["chat-0"]


async def test_events_that_cannot_be_read_hide_no_other_failure() -> None:
    class Deaf(MemoryApi):
        async def list(self, *args: Any, **kwargs: Any) -> list[dict[str, Any]]:
            raise ApiError(504, "GET", "/events", "timed out")

    assert set(await failing(StuckPods(Deaf()), view(unbound_body("slow")), view(stuck_body("no-image")))) == {
        "no-image"
    }


async def test_event_of_an_earlier_claim_of_that_name_is_not_held_against_the_pod() -> None:
    api, body = MemoryApi(), unbound_body()
    body["metadata"]["creationTimestamp"] = NOW.isoformat()
    put_event(api, "chat-0-spillway-nvme", "ProvisioningFailed", "no such class")
    (event,) = api.kind(EVENTS)
    api.put(EVENTS, {**event, "lastTimestamp": (NOW - timedelta(minutes=1)).isoformat()})
    assert not await failing(StuckPods(api), view(body))
    api.put(EVENTS, {**event, "lastTimestamp": (NOW + timedelta(seconds=5)).isoformat()})
    assert await failing(StuckPods(api), view(body))


async def test_sidecar_of_a_pod_that_has_long_run_opens_nothing() -> None:
    body = stuck_body(
        waiting="CrashLoopBackOff", phase="Running", creationTimestamp=(NOW - timedelta(days=30)).isoformat()
    )
    body["status"]["containerStatuses"] = [{"name": "vllm", "state": {"running": {}}}]
    assert not await failing(StuckPods(MemoryApi()), view(body))
    body["metadata"]["creationTimestamp"] = (NOW - timedelta(minutes=1)).isoformat()
    assert await failing(StuckPods(MemoryApi()), view(body))


async def test_pods_are_restarted_one_by_one_and_not_before_the_webhook_knows() -> None:
    api, bodies = MemoryApi(), [stuck_body(f"chat-{i}") for i in range(20)]
    for body in bodies:
        api.put(PODS, body)
    stuck, pods = StuckPods(api), [view(body) for body in bodies]
    await stuck.find_failures(pods, NOW - GRACE)
    failures, _ = await stuck.find_failures(pods, NOW)

    async def restart(after: timedelta) -> int:
        await stuck.restart(KEY, OPEN, failures[20 - len(api.kind(PODS)) :], len(pods), NOW + after)
        return 20 - len(api.kind(PODS))

    assert await restart(timedelta(0)) == 0
    assert await restart(SPREAD) == 1
    assert await restart(SPREAD + timedelta(seconds=29)) == 1
    assert await restart(SPREAD + timedelta(seconds=30)) == 2


async def test_reconcile_opens_the_breaker_says_so_and_restarts_the_pod(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stuck_pods, "GRACE", timedelta(0))
    monkeypatch.setattr(stuck_pods, "SPREAD", timedelta(0))
    rig = Rig()
    reconciler = rig.controller._reconciler
    body = stuck_body()
    body["metadata"]["labels"]["spillway.dev/revision"] = revision = await current_revision(rig)
    rig.api.put(PODS, body)
    rig.controller.see_pod({"type": "ADDED", "object": body})
    await rig.reconcile()
    await rig.reconcile()
    injection, condition = rig.status.injection, rig.status.condition("InjectionReady")
    assert injection is not None and condition is not None
    assert (injection.state, injection.reason, injection.revision) == ("Open", "ImagePullBackOff", revision)
    assert (condition.status, condition.reason) == ("False", "SidecarsCannotStart")
    assert "pod chat-0: ImagePullBackOff" in condition.message
    assert [event["reason"] for event in rig.api.kind(EVENTS)] == ["SidecarsCannotStart"]
    assert not rig.api.kind(PODS)
    # The trial is due in time, whatever else happens to the pool.
    again_seconds = await reconciler.reconcile(KEY)
    assert again_seconds is not None and again_seconds <= TRY_AFTER.total_seconds() + 1


async def current_revision(rig: Rig) -> str:
    await rig.reconcile()
    assert rig.status.sidecar_revision is not None
    return rig.status.sidecar_revision


async def test_pool_that_is_gone_is_forgotten() -> None:
    """Pools of one name come and go for ever."""
    rig = Rig()
    rig.controller._stuck._restarted_at[KEY] = NOW
    await rig.reconcile()
    assert KEY in rig.controller._stuck._restarted_at
    assert KEY in rig.controller._reconciler._bursts
    rig.controller.see_pool({"type": "DELETED", "object": rig.pool})
    await rig.controller._reconciler.reconcile(KEY)
    assert not rig.controller._stuck._restarted_at
    assert not rig.controller._reconciler._bursts
