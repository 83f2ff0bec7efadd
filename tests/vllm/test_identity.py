"""Weights are what they are: changed ones share nothing with what was stored before, wherever and however they changed."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.vllm.kit import ARGUMENTS, Engine, Pod, prompt, wait_for

MakePod = Callable[..., Pod]
MakeEngine = Callable[..., Engine]
PROMPT = prompt(1)
# 1,000 tokens are three chunks.
REUSED = 768


def store(pod: Pod, engine: Engine) -> list[int]:
    """The output of an engine that has nothing to load, once its prompt's chunks are in the index."""
    engine.warm_up()
    before, external = pod.chunks()[0], engine.external_tokens()
    tokens: list[int] = engine.ask("generate", prompt=PROMPT)["tokens"]
    assert engine.external_tokens() == external
    wait_for("the chunks to be inserted", lambda: pod.chunks()[0] >= before + 3)
    return tokens


def generate(engine: Engine) -> tuple[list[int], int]:
    """Output of the prompt with an empty device, and how many of its tokens were loaded."""
    engine.ask("reset_device")
    external = engine.external_tokens()
    tokens = engine.ask("generate", prompt=PROMPT)["tokens"]
    return tokens, engine.external_tokens() - external


def change_norms(model: Path) -> None:
    """Double the layer norms of a model's file in place: a few KiB of it, and neither its size nor any other byte."""
    path = model / "model.safetensors"
    data = bytearray(path.read_bytes())
    header_bytes = struct.unpack_from("<Q", data)[0]
    header = json.loads(data[8 : 8 + header_bytes])
    for name, tensor in header.items():
        if "layernorm" in name:
            first, last = (8 + header_bytes + offset for offset in tensor["data_offsets"])
            for at in range(first, last, 2):
                # bfloat16: one more in the exponent.
                value = struct.unpack_from("<H", data, at)[0]
                struct.pack_into("<H", data, at, value + (1 << 7))
    path.write_bytes(data)


@pytest.fixture(scope="module")
def pod(make_pod: MakePod) -> Pod:
    pod = make_pod()
    pod.start_daemon()
    return pod


def test_changed_norms_under_the_same_path_are_cold_and_restored_ones_warm(
    pod: Pod, make_engine: MakeEngine, tmp_path: Path
) -> None:
    model, kept = tmp_path / "model", tmp_path / "kept"
    shutil.copytree(str(ARGUMENTS["model"]), model)
    shutil.copytree(model, kept)
    first = make_engine(pod, model=str(model))
    original = store(pod, first)
    first.close()

    change_norms(model)
    changed = make_engine(pod, model=str(model))
    assert store(pod, changed) != original
    changed.close()

    shutil.copy(kept / "model.safetensors", model)
    restored = make_engine(pod, model=str(model))
    restored.warm_up()
    assert generate(restored) == (original, REUSED)
    assert len(json.loads((pod.root / "run" / "weight-digests.json").read_text())) > 1


def test_files_that_change_after_the_engine_read_them_keep_it_cold(
    make_pod: MakePod, make_engine: MakeEngine, tmp_path: Path
) -> None:
    pod = make_pod()
    pod.start_daemon()
    model = tmp_path / "model"
    shutil.copytree(str(ARGUMENTS["model"]), model)
    engine = make_engine(pod, model=str(model), environment={"DRIVER_TOUCHES": str(model / "model.safetensors")})
    engine.ask("generate", prompt=PROMPT, max_tokens=1)
    cold = wait_for("the engine to know why it is cold", lambda: engine.ask("facts")["cold"])
    assert "changed since the engine began to load it" in cold


@pytest.mark.parametrize("told_by", ["rpc", "reset_prefix_cache", "reset_cache"])
def test_weights_changed_in_the_running_engine_poison_nobody(
    make_pod: MakePod, make_engine: MakeEngine, told_by: str
) -> None:
    pod = make_pod()
    pod.start_daemon()
    updated = make_engine(pod)
    original = store(pod, updated)

    updated.ask("scale_norms", factor=2.0)
    if told_by != "rpc":
        assert updated.ask(told_by)["done"]
    changed, loaded = generate(updated)
    assert loaded == 0
    assert changed != original
    wait_for("its own chunks", lambda: generate(updated) == (changed, REUSED))

    fresh = make_engine(pod)
    fresh.warm_up()
    assert generate(fresh) == (original, REUSED)


def test_workers_that_are_asked_for_what_changes_nothing_stay_warm(make_pod: MakePod, make_engine: MakeEngine) -> None:
    pod = make_pod()
    pod.start_daemon()
    engine = make_engine(pod)
    original = store(pod, engine)
    engine.ask("call_workers", method="check_health")
    assert generate(engine) == (original, REUSED)
    engine.ask("call_workers", method="reload_weights")
    assert generate(engine) == (original, 0)
