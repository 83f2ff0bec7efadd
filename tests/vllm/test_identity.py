"""Weights are what they are: changed ones share nothing with what was stored before, wherever and however they changed."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.vllm.kit import ARGUMENTS, ENVIRONMENT, Engine, Pod, prompt, python_path, wait_for

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
    assert cold in (pod.root / "run" / "refusal").read_text()


def test_weights_changed_in_the_running_engine_poison_nobody(make_pod: MakePod, make_engine: MakeEngine) -> None:
    pod = make_pod()
    pod.start_daemon()
    updated = make_engine(pod)
    original = store(pod, updated)
    updated.ask("call_workers", method="check_health")  # asked for what changes nothing, it stays warm
    assert generate(updated) == (original, REUSED)

    updated.ask("scale_norms", factor=2.0)  # by an RPC, without a word to any cache
    changed, loaded = generate(updated)
    assert loaded == 0
    assert changed != original
    wait_for("its own chunks", lambda: generate(updated) == (changed, REUSED))

    for told_by in ("reset_prefix_cache", "reset_cache"):
        assert updated.ask(told_by)["done"]
        assert generate(updated) == (changed, 0)
        wait_for("its own chunks", lambda: generate(updated) == (changed, REUSED))
    updated.ask("call_workers", method="reload_weights")
    assert generate(updated) == (original, 0)

    fresh = make_engine(pod)
    fresh.warm_up()
    assert generate(fresh) == (original, REUSED)

    fresh.ask("scale_norms_in_memory", factor=2.0)  # with neither an RPC nor a reset
    assert fresh.ask("reset_device")["done"]
    assert fresh.ask("generate", prompt=PROMPT)["tokens"] == changed
    wait_for("its own chunks", lambda: generate(fresh) == (changed, REUSED))
    updated.close()
    fresher = make_engine(pod)
    fresher.warm_up()
    assert generate(fresher) == (original, REUSED)


# Describes the environment and the configuration of each case in one process; most of its time is vLLM's import.
DESCRIBE = """
import json, os, sys
from vllm.engine.arg_utils import EngineArgs
from spillway.adapters.vllm.numerics import describe_computation, describe_environment
from spillway.client.identity import IdentityUnknown, canonical_digest

answers = []
for case in json.loads(sys.argv[1]):
    environment = case.get("environment", {})
    os.environ.update(environment)
    try:
        config = EngineArgs(**case["arguments"]).create_engine_config()
        answers.append(canonical_digest([describe_environment(), describe_computation(config)]).hex())
    except IdentityUnknown as error:
        answers.append(str(error))
    for name in environment:
        del os.environ[name]
print("ANSWERS", json.dumps(answers))
"""
SETTINGS = {key: value for key, value in ARGUMENTS.items() if key != "disable_log_stats"}


def describe(client: Path, cases: list[dict[str, Any]]) -> list[str]:
    arguments = [{**case, "arguments": {**SETTINGS, **case.get("arguments", {})}} for case in cases]
    done = subprocess.run(
        [str(ENVIRONMENT / "venv/bin/python"), "-c", DESCRIBE, json.dumps(arguments)],
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": python_path(client),
            "HF_HUB_OFFLINE": "1",
            "VLLM_CPU_KVCACHE_SPACE": "1",
        },
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    found = [line for line in done.stdout.splitlines() if line.startswith("ANSWERS ")]
    assert found, done.stderr[-3000:]
    answers: list[str] = json.loads(found[0].removeprefix("ANSWERS "))
    return answers


SAME: dict[str, dict[str, Any]] = {
    "again": {},
    "an address": {"environment": {"VLLM_HOST_IP": "10.0.0.7", "VLLM_DP_MASTER_PORT": "9"}},
    "links of a Service": {
        "environment": {"VLLM_CHAT_SERVICE_PORT_HTTP": "80", "VLLM_CHAT_PORT_80_TCP_ADDR": "10.0.0.8"}
    },
    "more requests at once": {"arguments": {"max_num_seqs": 7}},
}
OTHER: dict[str, dict[str, Any]] = {
    "batch invariant": {"environment": {"VLLM_BATCH_INVARIANT": "1"}},
    "deep gemm": {"environment": {"VLLM_USE_DEEP_GEMM": "0"}},
    "flash attention's version": {"environment": {"VLLM_FLASH_ATTN_VERSION": "2"}},
    "a library's precision": {"environment": {"NVIDIA_TF32_OVERRIDE": "1"}},
    "linear backend": {"arguments": {"kernel_config": {"linear_backend": "triton"}}},
    "compiled": {"arguments": {"enforce_eager": False}},
    "weights come over the network": {"arguments": {"weight_transfer_config": {"backend": "nccl"}}},
    "another longest context": {"arguments": {"max_model_len": 4096}},
}


@pytest.fixture(scope="module")
def described(client: Path) -> dict[str, str]:
    cases: dict[str, dict[str, Any]] = {
        "first": {},
        **SAME,
        **OTHER,
        "unknown": {"environment": {"VLLM_OF_SOMEBODY": "1"}},
    }
    return dict(zip(cases, describe(client, list(cases.values())), strict=True))


@pytest.mark.parametrize("case", SAME)
def test_setting_that_changes_no_byte_is_shared(described: dict[str, str], case: str) -> None:
    assert described[case] == described["first"]


@pytest.mark.parametrize("case", OTHER)
def test_setting_that_may_change_bytes_shares_nothing(described: dict[str, str], case: str) -> None:
    assert described[case] not in {seen for name, seen in described.items() if name != case}


def test_variable_that_nobody_described_is_cold_by_its_name(described: dict[str, str]) -> None:
    assert described["unknown"].startswith("VLLM_OF_SOMEBODY: vLLM does not know it")
