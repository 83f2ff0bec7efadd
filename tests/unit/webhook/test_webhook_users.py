"""The webhook tells by itself that a pool's user is another's: a pool of a moment ago must not reach that one's files."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, cast

import pytest
from reviews import make_pod
from spillway_operator.api import Reason, SkipReason
from spillway_operator.injection import inject
from spillway_operator.kube.errors import ApiError
from spillway_operator.kube.reader import ApiReader
from spillway_operator.kube.resources import Manifest, Resource
from spillway_operator.webhook import cluster as cluster_module
from spillway_operator.webhook.cluster import Cluster
from spillway_operator.webhook.files import StatusKeys
from spillway_operator.webhook.settings import WebhookSettings


def make_pool(namespace: str, second: int, user: int | None = 1000) -> Manifest:
    security = {} if user is None else {"runAsUser": user}
    return {
        "metadata": {
            "name": "chat",
            "namespace": namespace,
            "uid": f"uid-{namespace}",
            "creationTimestamp": f"2026-11-24T12:00:0{second}Z",
        },
        "spec": {"sidecar": {"securityContext": security}, "tiers": {"dram": {"capacity": "1Gi"}}},
    }


class Answers:
    """An API server that has these pools, and has just sent no word of them by the watch."""

    def __init__(self, *pools: Manifest) -> None:
        self._pools = {pool["metadata"]["namespace"]: pool for pool in pools}

    async def get(self, resource: Resource, name: str, namespace: str | None = None) -> Manifest | None:
        return self._pools.get(namespace or "") if resource.plural == "kvcachepools" else {"metadata": {"name": name}}


def make_cluster(*, watched: tuple[Manifest, ...], asked: tuple[Manifest, ...] = ()) -> Cluster:
    settings = WebhookSettings(sidecar_image="registry.example/sidecar:1", host_paths=("/mnt/nvme0",))
    cluster = Cluster(cast(ApiReader, Answers(*asked)), settings, StatusKeys(Path("/nowhere")))
    for pool in watched:
        cluster._pools.put(pool)
    return cluster


def reason(fault: Any) -> Reason | None:
    return None if fault is None else fault.reason


async def test_later_pool_is_plain_and_the_earlier_is_not() -> None:
    cluster = make_cluster(watched=(make_pool("early", 0), make_pool("late", 1), make_pool("apart", 2, 2000)))
    found = {name: reason((await cluster.gather(name, "chat")).user_fault) for name in ("early", "late", "apart")}
    assert found == {"early": None, "late": Reason.RUN_AS_USER_TAKEN, "apart": None}


HOST_PATH = {"type": "HostPath", "hostPath": {"path": "/mnt/nvme0"}}
VOLUMES = ({"type": "Ephemeral"}, {"type": "EmptyDir", "emptyDir": {"sizeLimit": "2Gi"}}, HOST_PATH)


@pytest.mark.parametrize("mine", VOLUMES, ids=lambda volume: volume["type"])
@pytest.mark.parametrize("theirs", VOLUMES, ids=lambda volume: volume["type"])
async def test_pods_of_the_later_pool_are_plain_whatever_the_volumes_are(
    mine: dict[str, Any], theirs: dict[str, Any]
) -> None:
    """A pool may be made anew with another volume, and then owns what lies on the disk under its user."""
    early, late = make_pool("early", 0), make_pool("late", 1)
    for pool, volume in ((early, theirs), (late, mine)):
        pool["spec"]["tiers"]["nvme"] = {"capacity": "1Gi", "volume": volume}
    cluster = make_cluster(watched=(early, late))
    skipped = {}
    for namespace in ("early", "late"):
        facts = await cluster.gather(namespace, "chat")
        outcome = inject(make_pod(), facts)
        skipped[namespace] = outcome.skip and outcome.skip.reason
        if outcome.skip is not None:
            assert outcome.pod["spec"] == make_pod()["spec"]
    assert skipped == {"early": None, "late": SkipReason.POOL_INVALID}


async def test_pool_that_the_watch_has_not_told_of_is_judged_once_it_has() -> None:
    """Its own word says that every pool made before has been told of too; without it, whose user it names is not known."""
    early, late = make_pool("early", 0), make_pool("late", 1)
    cluster = make_cluster(watched=(), asked=(early, late))
    judged = asyncio.create_task(cluster.gather("late", "chat"))
    await asyncio.sleep(0)
    cluster._pools.put(early)
    cluster._pools.put(late)
    assert reason((await judged).user_fault) is Reason.RUN_AS_USER_TAKEN


async def test_pool_that_the_watch_does_not_tell_of_gives_no_sidecar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_module, "CATCH_UP_SECONDS", 0.05)
    cluster = make_cluster(watched=(), asked=(make_pool("late", 1), make_pool("own", 1, None)))
    with pytest.raises(ApiError, match="watch of pools"):
        await cluster.gather("late", "chat")
    # One that names no user can take nobody's, and need not wait.
    assert (await cluster.gather("own", "chat")).user_fault is None
