"""Every KV token that a step builds on is what was computed for its prefix, whatever happens meanwhile."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.vllm.kit import Engine, Pod
from tests.vllm.test_hybrid import make_model

# Of each engine; `make test-soak` gives them minutes.
SECONDS = float(os.environ.get("SPILLWAY_FUZZ_SECONDS", "15"))
KILL_EVERY_SECONDS = 6.0


@contextmanager
def dying_daemon(pod: Pod) -> Iterator[list[int]]:
    """Its sidecar is killed again and again, and started again."""
    kills: list[int] = []
    over = threading.Event()

    def kill() -> None:
        while not over.wait(KILL_EVERY_SECONDS):
            pod.kill_daemon()
            pod.start_daemon()
            kills.append(1)

    thread = threading.Thread(target=kill)
    thread.start()
    yield kills
    over.set()
    thread.join()


@pytest.mark.parametrize(
    "settings",
    [
        {"num_gpu_blocks_override": 80},
        {"num_gpu_blocks_override": 80, "async_scheduling": True},
        {"num_gpu_blocks_override": 500, "max_num_batched_tokens": 300, "window": 128},
        {"num_gpu_blocks_override": 80, "tensor_parallel_size": 2},
    ],
    ids=["dense", "async", "windows", "two ranks"],
)
def test_tokens_are_those_of_their_prefix(
    make_pod: Callable[..., Pod], make_engine: Callable[..., Engine], tmp_path: Path, settings: dict[str, Any]
) -> None:
    settings = dict(settings)
    window = settings.pop("window", None)
    if window is not None:
        settings["model"] = make_model(tmp_path / "model", window)
    ranks = settings.get("tensor_parallel_size", 1)
    bind = {"VLLM_CPU_OMP_THREADS_BIND": "|".join(map(str, range(ranks)))} if ranks > 1 else {}
    pod = make_pod(dram_mib=64, nvme_mib=256)
    pod.start_daemon()
    # A device for little more than the longest request: the others are preempted, and their prefixes come from outside.
    engine = make_engine(pod, environment=bind, max_model_len=2048, **settings)
    engine.warm_up()
    seed = random.randrange(1 << 30)
    with dying_daemon(pod) as kills:
        answer = engine.ask("fuzz_kv", seed=seed, seconds=SECONDS, longest=1300)
    facts = engine.ask("facts")
    loaded = facts["counters"]["loaded_chunks"]
    print(f"seed {seed}: {answer['counts']}, {loaded} chunks loaded, {len(kills)} daemons killed")
    assert answer["wrong"] == []
    assert answer["counts"]["verified"] > 1000
    assert loaded > 0
    assert kills
    assert facts["problem"] is None
