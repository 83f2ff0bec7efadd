"""What asking the API server about an injected pod costs: dry runs by the size of the pod, beside a plain read on the same connection.

`KUBECONFIG=... python bench/admission.py` uses whatever API server that names, in a namespace of its own, and stores no pod.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable
from typing import Any

import typer
from rich.console import Console
from rich.table import Table
from spillway_operator.api import Allowed, names, parse_pool
from spillway_operator.injection import Facts, Pod, inject
from spillway_operator.kube.access import find_access
from spillway_operator.kube.reader import ApiReader
from spillway_operator.kube.resources import NAMESPACES
from spillway_operator.webhook.admissible import BUDGET_SHARE, find_refusal

from dev.cluster.commands import ClusterError

NAMESPACE = "spillway-bench-admission"
WEBHOOK_SECONDS = 5.0
VARIABLES = (0, 100, 1000)


def injected_pod(variables: int) -> tuple[Pod, Pod]:
    """A pod whose engine has so many environment variables of 80 bytes, with its sidecar and without."""
    environment = [{"name": f"VARIABLE_{number}", "value": "x" * 48} for number in range(variables)]
    engine = {"name": "engine", "image": "vllm/vllm-openai:v0.32.0", "env": environment}
    plain = {
        "metadata": {"generateName": "chat-", "labels": {names.POOL_LABEL: "chat"}},
        "spec": {"containers": [engine]},
    }
    metadata = {"name": "chat", "namespace": NAMESPACE, "uid": "3f1c7c58-6f0e-4a58-9c39-5f2f2a6d1b10"}
    volume = {"type": "Ephemeral", "ephemeral": {"storageClassName": "fast"}}
    tiers = {"dram": {"capacity": "64Mi"}, "nvme": {"capacity": "64Mi", "volume": volume}}
    facts = Facts(
        pool=parse_pool({"metadata": metadata, "spec": {"tiers": tiers}}), allowed=Allowed("registry.example/sidecar:1")
    )
    return inject(plain, facts).pod, plain


async def timed(rounds: int, call: Callable[[], Awaitable[Any]]) -> list[float]:
    """Seconds of each call, one after the other; the first, which connects, is not counted."""
    await call()
    seconds = []
    for _ in range(rounds):
        started = time.perf_counter()
        await call()
        seconds.append(time.perf_counter() - started)
    return seconds


def row(name: str, seconds: list[float]) -> tuple[str, str, str, str]:
    cuts = statistics.quantiles(seconds, n=100)
    return name, f"{cuts[49] * 1e3:.1f}", f"{cuts[98] * 1e3:.1f}", f"{cuts[98] / WEBHOOK_SECONDS:.1%}"


async def measure(rounds: int) -> Table:
    table = Table("asked", "p50 ms", "p99 ms", "p99 of the webhook's 5 s")
    async with ApiReader(find_access()) as api:
        if await api.get(NAMESPACES, NAMESPACE) is None:
            raise ClusterError(f"make the namespace first: kubectl create namespace {NAMESPACE}")
        table.add_row(*row("a namespace, read", await timed(rounds, lambda: api.get(NAMESPACES, NAMESPACE))))
        for variables in VARIABLES:
            injected, plain = injected_pod(variables)

            async def ask(injected: Pod = injected, plain: Pod = plain) -> None:
                budget_seconds = BUDGET_SHARE * WEBHOOK_SECONDS
                assert (
                    await find_refusal(
                        api, asyncio.Semaphore(), NAMESPACE, injected, plain, budget_seconds=budget_seconds
                    )
                    is None
                )

            size = len(str(injected)) // 1024
            table.add_row(*row(f"an injected pod of {size} KiB and its claim, dry run", await timed(rounds, ask)))
    return table


def main(rounds: int = 300) -> None:
    Console(width=120).print(asyncio.run(measure(rounds)))


if __name__ == "__main__":
    typer.run(main)
