"""A full list is the truth of the moment when it was made, which is a little older than the last watch event."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from controller_builders import make_pod_body, make_pool_body
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from memory_api import MemoryApi
from rig import CHAT, SETTINGS
from spillway_operator.controller.client import CONFIG_MAPS, PODS, POOLS, ApiError, Manifest, Resource
from spillway_operator.controller.controller import Controller
from spillway_operator.controller.status_keys import StatusSigner


class SlowApi(MemoryApi):
    """An API server where something happens after a list was made, before the one who asked has it."""

    def __init__(self, *pools: Manifest) -> None:
        super().__init__(*pools)
        self.after_list_of: dict[str, Callable[[], None]] = {}

    async def list(
        self, resource: Resource, namespace: str | None = None, *, label_selector: str | None = None
    ) -> list[Manifest]:
        found = await super().list(resource, namespace, label_selector=label_selector)
        self.after_list_of.pop(resource.kind, lambda: None)()
        return found


def make_controller(api: SlowApi) -> Controller:
    return Controller(api, SETTINGS, StatusSigner(Ed25519PrivateKey.generate()))


def names(controller: Controller) -> list[str]:
    return [pod.name for pod in controller._observed.pods(CHAT)]


@pytest.mark.parametrize("listed", [PODS, CONFIG_MAPS], ids=["with the pods' own list", "with a later list"])
async def test_a_pod_that_ends_while_the_lists_are_made_stays_gone(listed: Resource) -> None:
    api = SlowApi(make_pool_body())
    controller = make_controller(api)
    for name in ("chat-0", "chat-1"):
        api.put(PODS, make_pod_body(name))
    await controller._relist()
    assert names(controller) == ["chat-0", "chat-1"]
    gone = {"type": "DELETED", "object": make_pod_body("chat-0")}
    api.after_list_of[listed.kind] = lambda: controller.see_pod(gone)
    await controller._relist()
    assert names(controller) == ["chat-1"]


async def test_a_pod_that_begins_while_the_lists_are_made_is_not_lost() -> None:
    """A deleted pool would be cleaned under it."""
    api = SlowApi(make_pool_body())
    controller = make_controller(api)
    new = {"type": "ADDED", "object": make_pod_body("chat-0")}
    api.after_list_of[PODS.kind] = lambda: controller.see_pod(new)
    await controller._relist()
    assert names(controller) == ["chat-0"]


async def test_a_pool_that_goes_while_the_lists_are_made_stays_gone() -> None:
    api = SlowApi(make_pool_body())
    controller = make_controller(api)
    api.after_list_of[POOLS.kind] = lambda: controller.see_pool({"type": "DELETED", "object": make_pool_body()})
    await controller._relist()
    assert controller._observed.pool(CHAT) is None


async def test_an_event_counts_once_where_the_lists_failed() -> None:
    """What was noted for a list that never came must not be seen again after a later one."""
    api = SlowApi(make_pool_body())
    controller = make_controller(api)

    def fail() -> None:
        controller.see_pod({"type": "ADDED", "object": make_pod_body("chat-0")})
        raise ApiError(500, "GET", "/api/v1/pods", "refused by the test")

    api.after_list_of[PODS.kind] = fail
    with pytest.raises(ApiError):
        await controller._relist()
    assert names(controller) == ["chat-0"]
    await controller._relist()
    assert names(controller) == []
