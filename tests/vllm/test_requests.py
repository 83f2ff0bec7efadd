"""What a request brings beside its tokens: an adapter, a salt, a pooler in the place of a sampler."""

from __future__ import annotations

import math
import subprocess
from collections.abc import Callable
from pathlib import Path

from tests.vllm.kit import ARGUMENTS, ENVIRONMENT, HERE, Engine, Pod, prompt, wait_for

MakePod = Callable[..., Pod]
MakeEngine = Callable[..., Engine]


def test_request_with_an_adapter_neither_stores_nor_loads_and_the_others_do(
    make_pod: MakePod, make_engine: MakeEngine, tmp_path: Path
) -> None:
    adapter = tmp_path / "adapter"
    program = [ENVIRONMENT / "venv/bin/python", HERE / "adapter_model.py", adapter, str(ARGUMENTS["model"])]
    subprocess.run(program, check=True, capture_output=True)
    pod = make_pod()
    pod.start_daemon()
    engine = make_engine(pod, enable_lora=True, max_lora_rank=8)
    engine.warm_up()
    plain = engine.ask("generate", prompt=prompt(1))["tokens"]
    wait_for("the plain request's chunks", lambda: pod.chunks()[0] == 3)

    adapted = engine.ask("generate", prompt=prompt(1), adapter=str(adapter))["tokens"]
    assert adapted != plain
    engine.ask("drain")
    engine.ask("reset_device")
    assert engine.ask("generate", prompt=prompt(1), adapter=str(adapter))["tokens"] == adapted
    assert engine.external_tokens() == 0
    engine.ask("reset_device")
    assert engine.ask("generate", prompt=prompt(1))["tokens"] == plain
    assert engine.external_tokens() == 768
    assert pod.chunks()[0] == 3
    assert engine.ask("facts")["problem"] is None


def test_salted_request_loads_what_its_own_salt_stored(make_pod: MakePod, make_engine: MakeEngine) -> None:
    pod = make_pod()
    pod.start_daemon()
    engine = make_engine(pod)
    engine.warm_up()
    loaded: dict[str | None, list[int]] = {"a": [], "b": [], None: []}
    for salt, tokens in loaded.items():
        for _ in range(2):
            before, chunks = engine.external_tokens(), pod.chunks()[0]
            engine.ask("reset_device")
            engine.ask("generate", prompt=prompt(1), salt=salt)
            tokens.append(engine.external_tokens() - before)
            if not tokens[-1]:
                wait_for("the chunks to be inserted", lambda chunks=chunks: pod.chunks()[0] == chunks + 3)
    assert loaded == {"a": [0, 768], "b": [0, 768], None: [0, 768]}


def test_pooling_that_goes_on_from_a_prefix_is_loaded(make_pod: MakePod, make_engine: MakeEngine) -> None:
    pod = make_pod()
    pod.start_daemon()
    engine = make_engine(pod, runner="pooling", pooler_config={"pooling_type": "LAST"}, max_num_batched_tokens=8192)

    def ready() -> bool:
        engine.ask("embed", prompt=prompt(0, 40))
        return bool(engine.ask("facts")["ready"])

    wait_for("the engine to attach", ready)
    cold = engine.ask("embed", prompt=prompt(1))["vector"]

    def stored() -> bool:
        engine.ask("embed", prompt=prompt(0, 40))  # a finished request's last chunks go with the steps after it
        return pod.chunks()[0] == 3

    wait_for("the chunks to be inserted", stored)
    engine.ask("reset_device")
    before = engine.external_tokens()
    warm = engine.ask("embed", prompt=prompt(1))["vector"]
    assert engine.external_tokens() - before == 768
    assert math.dist(warm, cold) < 1e-4 * math.hypot(*cold)
