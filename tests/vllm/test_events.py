"""What a router hears on a real engine's event stream: where this engine's chunks can be loaded from, and when they leave."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Callable
from typing import Any

from tests.vllm.kit import Engine, Pod, prompt, wait_for


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def test_router_hears_where_chunks_are_and_that_they_moved(
    make_pod: Callable[..., Pod], make_engine: Callable[..., Engine]
) -> None:
    pod, port = make_pod(dram_mib=64, nvme_mib=256), free_port()
    pod.start_daemon()
    config: dict[str, Any] = {"enable_kv_cache_events": True, "publisher": "zmq", "endpoint": f"tcp://*:{port}"}
    engine = make_engine(pod, kv_events_config=config)
    engine.ask("subscribe", endpoint=f"tcp://127.0.0.1:{port}")
    engine.warm_up()
    heard: Counter[tuple[str, str]] = Counter()

    def listen(least: dict[tuple[str, str], int]) -> bool:
        engine.ask("generate", prompt=prompt(0, 40), max_tokens=1)  # events come with a step
        for kind, medium, locality, _tokens, _hashes in engine.ask("events")["events"]:
            if locality == "LOCAL":
                heard[kind, medium] += 1
        return all(heard[what] >= count for what, count in least.items())

    engine.ask("generate", prompt=prompt(1))
    wait_for("three chunks in DRAM to be told of", lambda: listen({("BlockStored", "CPU"): 3}))
    assert heard == {("BlockStored", "CPU"): 3}

    # More than the arena's 62 slots: the first ones go on from NVMe alone.
    for seed in range(100, 130):
        engine.ask("generate", prompt=prompt(seed), max_tokens=1)
    wait_for(
        "chunks that left DRAM to be told of",
        lambda: listen({("BlockRemoved", "CPU"): 3, ("BlockStored", "STORAGE"): 3}),
    )
    assert engine.ask("facts")["problem"] is None

    engine.ask("reset_prefix_cache")  # the weights may have changed: nothing of it can be loaded any more

    def taken_back() -> bool:
        listen({})
        return sum(count if kind == "BlockRemoved" else -count for (kind, _medium), count in heard.items()) == 0

    wait_for("as much to be taken back as was told", taken_back)
