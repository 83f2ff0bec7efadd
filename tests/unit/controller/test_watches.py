"""The controller behind its watches: what it knows is what the API server holds, whatever was lost on the way."""

from __future__ import annotations

import asyncio
from typing import Any

from controller_builders import make_pod_body
from rig import CHAT, Rig
from scripted_api import ScriptedApi, Watch, line


def gone() -> Watch:
    return Watch(line("ERROR", {"code": 410, "message": "too old resource version"}))


async def follow(rig: Rig, api: ScriptedApi) -> None:
    """Let the rig's controller follow the pods until the script has been played."""
    pods = rig.controller._watches[1]
    pods._sleep = api.sleep
    async with api.serve() as reader:
        following = asyncio.create_task(pods.follow(reader))
        async with asyncio.timeout(20):
            await api.idle.wait()
        following.cancel()


async def test_a_pod_that_returns_unseen_under_its_name_is_in_the_status_once() -> None:
    """As a StatefulSet's pods do. The API server refuses a status in which a member stands twice."""
    rig = Rig()
    api = ScriptedApi(watches=[gone()])
    uids = iter(("first", "second"))

    def change() -> None:
        api.objects = [make_pod_body("chat-0", uid=next(uids), injected=False)]

    api.on_list = change
    await follow(rig, api)
    await rig.reconcile()
    assert [member.pod for member in rig.status.members] == ["chat-0"]
    assert rig.status.pods is not None
    assert rig.status.pods.labelled == 1


async def test_a_pod_whose_end_no_watch_told_of_is_gone() -> None:
    rig = Rig()
    api = ScriptedApi(watches=[gone()])
    lists = iter((["chat-0", "chat-1"], ["chat-1"]))

    def change() -> None:
        api.objects = [make_pod_body(name) for name in next(lists)]

    api.on_list = change
    await follow(rig, api)
    assert [pod.name for pod in rig.controller._observed.pods(CHAT)] == ["chat-1"]


async def test_nothing_is_decided_before_everything_is_listed() -> None:
    """A status of what is known so far would be one more write after every start, and wrong in between."""
    rig = Rig()
    api = ScriptedApi([make_pod_body("chat-0", injected=False)], of_other_kinds={"kvcachepools": [rig.pool]})
    api.lists = [(500, b"")]
    before: list[Any] = []
    api.on_list = lambda: before.append(dict(rig.pool["status"]))
    async with api.serve() as reader:
        running = asyncio.create_task(rig.controller.run(reader))
        async with asyncio.timeout(20):
            while "pods" not in rig.pool["status"]:
                await asyncio.sleep(0.01)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert before == [{"disk": {"nodes": []}}]
    assert rig.pool["status"]["pods"]["labelled"] == 1
