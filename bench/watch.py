"""What the operator's first list costs: peak memory and the longest stall of the event loop, at 5,000 and at 50,000 pods of 12.7 KB.

`python bench/watch.py`: a process of its own serves the pods in pages, as an API server does; the operator's watches list them. Beside it
the same pods as one unpaged list that is kept whole until it is projected, which is what the first version did, at 5,000.

A stall is told twice: as the clock has it, which on a busy machine counts the others' turns as well, and as CPU of the longest single
callback, which is what our code keeps the loop for. The bound is held against the second.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import multiprocessing
import resource
import ssl
import sys
import time
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import aiohttp
import typer
from aiohttp import web
from rich.console import Console
from rich.table import Table

POD_BYTES = 12_700
PODS_PER_POOL = 50
TARGET_MIB, TARGET_MS = 512, 200
_NAME = "@NAME@"
_POOL = "@POOL@"


class Cost(NamedTuple):
    """What a list costs. `stall_ms` is 0 where none was longer than 50 ms."""

    known: int
    seconds: float
    before_mib: float
    peak_mib: float
    stall_ms: float
    cpu_ms: float


def render_template() -> bytes:
    """A running pod with a sidecar, as the API server sends it: a third of it managedFields."""
    environment = [{"name": f"VARIABLE_{number}", "value": f"value of {number}"} for number in range(24)]
    ports = [{"containerPort": 8000 + number, "protocol": "TCP"} for number in range(4)]
    containers = [
        {"name": name, "image": "registry.example/engine:1", "env": environment, "ports": ports}
        for name in ("engine", "log")
    ]
    owned = {f"f:field-{number}": {"f:value": {}, ".": {}} for number in range(130)}
    note = json.dumps({"poolUid": "0f0e0d0c-0b0a-0908-0706-050403020100"})
    pod: dict[str, Any] = {
        "metadata": {
            "name": _NAME, "namespace": "team-a", "uid": f"uid-{_NAME}", "resourceVersion": "5",
            "labels": {"spillway.dev/pool": _POOL, "spillway.dev/revision": "r1"},
            "annotations": {"spillway.dev/status": note},
            "managedFields": [{"manager": "kubelet", "operation": "Update", "fieldsV1": owned}],
        },
        "spec": {"nodeName": "node-1", "containers": containers, "initContainers": containers[:1]},
        "status": {
            "phase": "Running", "podIP": "10.0.0.1",
            "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-11-24T12:00:00Z"}],
            "containerStatuses": [{"name": c["name"], "ready": True, "state": {"running": {}}} for c in containers],
        },
    }  # fmt: skip
    pod["metadata"]["annotations"]["padding"] = "x" * (POD_BYTES - len(json.dumps(pod)) - 20)
    return json.dumps(pod).encode()


def serve(count: int, pipe: Connection) -> None:
    """Serve `count` pods, and nothing of any other kind, until the process is ended. Says the port."""
    before, rest = render_template().split(_NAME.encode(), 1)
    middle, rest = rest.split(_NAME.encode(), 1)
    pool, after = rest.split(_POOL.encode(), 1)

    def render(number: int) -> bytes:
        name = b"chat-%06d" % number
        return before + name + middle + name + pool + b"pool-%d" % (number // PODS_PER_POOL) + after

    async def answer(request: web.Request) -> web.StreamResponse:
        if "watch" in request.query:
            response = web.StreamResponse()
            with contextlib.suppress(ConnectionError):
                await response.prepare(request)
            await asyncio.Event().wait()
        total = count if request.path == "/api/v1/pods" else 0
        begin = int(request.query.get("continue", 0))
        end = min(total, begin + int(request.query.get("limit", total)))
        following = b', "continue": "%d"' % end if end < total else b""
        items = b",".join(map(render, range(begin, end)))
        body = b'{"metadata": {"resourceVersion": "10"%s}, "items": [%s]}' % (following, items)
        return web.Response(body=body, content_type="application/json")

    async def run() -> None:
        application = web.Application()
        application.router.add_get("/{path:.*}", answer)
        runner = web.AppRunner(application)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        pipe.send(runner.addresses[0][1])
        await asyncio.Event().wait()

    asyncio.run(run())


def list_in_pages(port: int, pipe: Connection) -> None:
    """List as the operator does at its start, and say what it cost."""
    asyncio.run(_measure(port, pipe, _follow))


def list_whole(port: int, pipe: Connection) -> None:
    """List in one piece, and say what it cost."""
    asyncio.run(_measure(port, pipe, _read_whole))


async def _measure(port: int, pipe: Connection, work: Any) -> None:
    import spillway_operator.__main__  # noqa: F401  # with all that the operator's process holds
    from spillway_operator.stalls import spare_what_stays, watch_stalls

    spare_what_stays()
    idle_mib = _rss_mib()
    longest = _note_callbacks()
    stalls: list[float] = []
    watching = asyncio.create_task(watch_stalls(stalls.append))
    await asyncio.sleep(0)
    started = time.perf_counter()
    known = await work(port)
    seconds = time.perf_counter() - started
    await asyncio.sleep(0.2)  # the watchdog's own look
    watching.cancel()
    pipe.send(Cost(known, seconds, idle_mib, _rss_mib(), max(stalls, default=0.0) * 1e3, longest[0] * 1e3))


def _note_callbacks() -> list[float]:
    """From now on holds the CPU seconds of the longest callback of any loop of this process."""
    longest = [0.0]
    run = asyncio.events.Handle._run

    def timed(handle: asyncio.Handle) -> None:
        started = time.thread_time()
        run(handle)
        longest[0] = max(longest[0], time.thread_time() - started)

    asyncio.events.Handle._run = timed  # type: ignore[method-assign]
    return longest


async def _follow(port: int) -> int:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from kubernetes.client import Configuration
    from spillway_operator.controller.controller import Controller
    from spillway_operator.controller.settings import OperatorSettings
    from spillway_operator.controller.status_keys import StatusSigner
    from spillway_operator.kube.access import Access
    from spillway_operator.kube.client import ApiServer
    from spillway_operator.kube.reader import ApiReader

    settings = OperatorSettings(namespace="spillway-system", sidecar_image="sidecar:1", control_image="control:1")
    controller = Controller(ApiServer(Configuration()), settings, StatusSigner(Ed25519PrivateKey.generate()))
    async with ApiReader(Access(f"http://127.0.0.1:{port}", ssl.create_default_context(), lambda: "")) as reader:
        following = [asyncio.create_task(watch.follow(reader)) for watch in controller._watches]
        for watch in controller._watches:
            await watch.synced.wait()
        for task in following:
            task.cancel()
        await asyncio.gather(*following, return_exceptions=True)
    return len(controller._observed.injected_pods)


async def _read_whole(port: int) -> int:
    from spillway_operator.controller.observed import Observed

    observed = Observed()
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/api/v1/pods") as answer:
        for body in (await answer.json())["items"]:
            observed.put_pod(body)
    return len(observed.injected_pods)


def _rss_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform == "linux" else 2**20)


def measure(count: int, how: Any) -> Cost:
    """What a list costs in a fresh process."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    server = context.Process(target=serve, args=(count, theirs), daemon=True)
    server.start()
    port = ours.recv()
    client = context.Process(target=how, args=(port, theirs), daemon=True)
    client.start()
    cost: Cost = ours.recv()
    client.join()
    server.terminate()
    server.join()
    return cost


def main(pods: list[int] = [5_000, 50_000]) -> None:  # noqa: B006
    table = Table("pods", "list", "seconds", "MiB before", "MiB at the peak", "longest stall, ms", "of CPU, ms")
    runs: list[tuple[int, str, Any]] = [
        (min(pods), "whole", list_whole),
        *((n, "in pages", list_in_pages) for n in pods),
    ]
    missed = []
    for count, name, how in runs:
        cost = measure(count, how)
        if cost.known != count:
            raise RuntimeError(f"{cost.known} of {count} pods arrived")
        stall = f"{cost.stall_ms:.0f}" if cost.stall_ms else "< 50"
        figures = (f"{cost.seconds:.1f}", f"{cost.before_mib:.0f}", f"{cost.peak_mib:.0f}", stall, f"{cost.cpu_ms:.0f}")
        table.add_row(f"{count:,}", name, *figures)
        if name == "in pages" and (cost.peak_mib >= TARGET_MIB or cost.cpu_ms >= TARGET_MS):
            missed.append(count)
    Console(width=120).print(table)
    Console(width=120).print(f"bound: {TARGET_MIB} MiB, {TARGET_MS} ms: {'missed' if missed else 'held'}")


if __name__ == "__main__":
    typer.run(main)
