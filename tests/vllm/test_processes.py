"""vLLM as it is deployed: API, EngineCore and two tensor-parallel ranks as processes of their own."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

from tests.vllm.kit import Engine, Pod, prompt, wait_for


def children(pid: int) -> dict[str, int]:
    """Every descendant of a process by the name in its command line."""
    found: dict[str, int] = {}
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, path.read_text().split()):
            found[Path(f"/proc/{child}/comm").read_text().strip()] = child
            found.update(children(child))
    return found


def test_two_ranks_store_and_load_and_their_death_returns_every_slot(
    make_pod: Callable[..., Pod], make_engine: Callable[..., Engine]
) -> None:
    pod = make_pod()
    pod.start_daemon()
    engine = make_engine(
        pod,
        environment={"VLLM_ENABLE_V1_MULTIPROCESSING": "1", "VLLM_CPU_OMP_THREADS_BIND": "0|1"},
        tensor_parallel_size=2,
    )
    wait_for("the first chunk", lambda: engine.ask("generate", prompt=prompt(9, 300)) and pod.chunks()[0])
    cold = engine.ask("generate", prompt=prompt(1))["tokens"]
    wait_for("the chunks to be inserted", lambda: pod.chunks()[0] >= 4)
    engine.ask("reset_device")
    before = engine.external_tokens()
    assert engine.ask("generate", prompt=prompt(1))["tokens"] == cold
    assert engine.external_tokens() - before == 768

    core = next(pid for name, pid in children(engine.process.pid).items() if "EngineCor" in name)
    os.kill(core, signal.SIGKILL)
    engine.close()
    wait_for("the leases to come back", lambda: pod.slot_states().get(1, 0) == 0)
    assert pod.chunks()[0] >= 4
