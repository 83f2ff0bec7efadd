"""Which engines Spillway enters, and that one it does not enter is to the last field the engine that the user asked for."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.vllm.kit import ARGUMENTS, ENVIRONMENT, Engine, Pod, make_client_folder, prompt, python_path

MakePod = Callable[..., Pod]
MakeEngine = Callable[..., Engine]

# Resolves each case's configuration twice, without the plugin and with it, and says what differs. No engine is started.
PROGRAM = """
import copy, dataclasses, enum, json, os, sys
from pathlib import Path
import vllm
from vllm.config import KVTransferConfig
from vllm.engine.arg_utils import EngineArgs
from vllm.plugins import load_general_plugins

plain = EngineArgs.create_engine_config
load_general_plugins()
injected = EngineArgs.create_engine_config
assert injected is not plain or sys.argv[2]

def flat(value, path="", depth=0):
    if depth > 8:
        return {}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name, None) for field in dataclasses.fields(value)}
    elif hasattr(value, "to_dict") and not isinstance(value, type):
        value = value.to_dict()
    if isinstance(value, dict):
        found = {}
        for key, item in value.items():
            found |= flat(item, f"{path}.{key}", depth + 1)
        return found
    text = repr(value)
    return {} if " at 0x" in text else {path: text}

# Drawn anew for every configuration.
DRAWN = ("port", "instance_id", "engine_id")
answers = []
for case in json.loads(sys.argv[1]):
    arguments, environment = case["arguments"], case.get("environment", {})
    os.environ.update(environment)
    if "kv_transfer_config" in arguments:
        arguments["kv_transfer_config"] = KVTransferConfig(**arguments["kv_transfer_config"])
    answer = {}
    try:
        alone = flat(plain(EngineArgs(**copy.deepcopy(arguments))))
        config = injected(EngineArgs(**arguments))
        seen = flat(config)
        answer["differs"] = sorted(
            key for key in alone.keys() | seen.keys()
            if alone.get(key) != seen.get(key) and not any(word in key for word in DRAWN)
            and not key.startswith(".kv_transfer_config")
        )
        answer["chosen"] = config.kv_transfer_config and config.kv_transfer_config.kv_connector
    except Exception as error:
        answer["error"] = f"{type(error).__name__}: {error}"
    refusal = Path(os.environ["SPILLWAY_ROOT"], "run", "refusal")
    answer["refusal"] = refusal.read_text() if refusal.exists() else None
    for name in environment:
        del os.environ[name]
    answers.append(answer)
print("ANSWERS", json.dumps(answers))
"""
SETTINGS = {key: value for key, value in ARGUMENTS.items() if key != "disable_log_stats"}


def resolve(pod: Pod, cases: list[dict[str, Any]], version: str = "") -> list[dict[str, Any]]:
    """What becomes of each case's engine arguments; `version` is what vLLM says that it is."""
    program = PROGRAM.replace("import vllm\n", f"import vllm; vllm.__version__ = {version!r}\n") if version else PROGRAM
    arguments = [{**case, "arguments": {**SETTINGS, **case.get("arguments", {})}} for case in cases]
    done = subprocess.run(
        [str(ENVIRONMENT / "venv/bin/python"), "-c", program, json.dumps(arguments), version],
        env={
            **pod.environment(),
            "PYTHONPATH": python_path(pod.client),
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
    answers: list[dict[str, Any]] = json.loads(found[0].removeprefix("ANSWERS "))
    return answers


def model_of(folder: Path, **config: Any) -> str:
    """A model as far as its configuration goes, with the tokenizer of the one that the tests run."""
    source = Path(str(ARGUMENTS["model"]))
    folder.mkdir()
    for path in source.iterdir():
        if path.name.startswith("tokenizer") or path.name == "special_tokens_map.json":
            (folder / path.name).symlink_to(path)
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


@pytest.fixture(scope="module")
def pod(make_pod: MakePod) -> Pod:
    return make_pod()


@pytest.fixture(scope="module")
def resolved(pod: Pod, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Every case, in one process: most of its time is vLLM's import."""
    folder = tmp_path_factory.mktemp("models")
    audio = model_of(
        folder / "audio",
        architectures=["Qwen2AudioForConditionalGeneration"],
        model_type="qwen2_audio",
        audio_config={"model_type": "qwen2_audio_encoder", "d_model": 32, "encoder_layers": 1, "num_mel_bins": 16},
        text_config={
            "model_type": "qwen2", "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1,
            "num_attention_heads": 1, "num_key_value_heads": 1, "vocab_size": 1024, "max_position_embeddings": 16384,
        },
    )  # fmt: skip
    whisper = model_of(
        folder / "whisper",
        architectures=["WhisperForConditionalGeneration"],
        model_type="whisper",
        d_model=64, encoder_layers=1, decoder_layers=1, encoder_attention_heads=1, decoder_attention_heads=1,
        vocab_size=1024, max_target_positions=448, is_encoder_decoder=True,
    )  # fmt: skip
    cases: dict[str, dict[str, Any]] = {
        "llama": {},
        "audio": {"arguments": {"model": audio}},
        "mean pooling": {
            "arguments": {"runner": "pooling", "pooler_config": {"pooling_type": "MEAN"}, "max_model_len": 512}
        },
        "no prefix caching": {"arguments": {"enable_prefix_caching": False}},
        "whisper": {"arguments": {"model": whisper, "max_model_len": 448}},
        "expandable segments": {"environment": {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}},
        "drawn weights": {"arguments": {"load_format": "dummy"}},
        "two stages": {"arguments": {"pipeline_parallel_size": 2, "distributed_executor_backend": "mp"}},
        "two nodes": {"arguments": {"nnodes": 2, "tensor_parallel_size": 2, "distributed_executor_backend": "mp"}},
        "ranks elsewhere": {"arguments": {"distributed_executor_backend": "external_launcher"}},
        "drafter": {
            "arguments": {
                "speculative_config": {"method": "ngram", "num_speculative_tokens": 2, "prompt_lookup_max": 3}
            }
        },
        "weak hash": {"arguments": {"prefix_caching_hash_algo": "xxhash"}},
        "last pooling": {"arguments": {"runner": "pooling", "pooler_config": {"pooling_type": "LAST"}}},
        "lora": {"arguments": {"enable_lora": True}},
        "own connector": {
            "arguments": {
                "kv_transfer_config": {
                    "kv_connector": "ExampleConnector",
                    "kv_role": "kv_both",
                    "kv_connector_extra_config": {"shared_storage_path": str(folder)},
                }
            }
        },
        "own offloading": {"arguments": {"kv_offloading_size": 1.0}},
    }
    return dict(zip(cases, resolve(pod, list(cases.values())), strict=True))


ENTERED = ["llama", "audio", "last pooling", "lora"]
REFUSED = {
    "mean pooling": "enable_prefix_caching is off",
    "no prefix caching": "enable_prefix_caching is off",
    "whisper": "encoder-decoder",
    "expandable segments": "vLLM refuses a KV connector: 1 validation error",
    "drawn weights": "load_format dummy does not load files",
    "two stages": "pipeline_parallel_size is 2",
    "two nodes": "nnodes is 2",
    "ranks elsewhere": "distributed_executor_backend is external_launcher",
    "drafter": "speculative_config: the drafter's weights",
    "weak hash": "prefix_caching_hash_algo is xxhash",
}


@pytest.mark.parametrize("case", [*ENTERED, *REFUSED])
def test_no_other_field_of_the_configuration_differs(resolved: dict[str, dict[str, Any]], case: str) -> None:
    assert "error" not in resolved[case], resolved[case]
    assert resolved[case]["differs"] == []


@pytest.mark.parametrize("case", ENTERED)
def test_engine_that_can_go_on_from_a_prefix_gets_the_connector(resolved: dict[str, dict[str, Any]], case: str) -> None:
    assert resolved[case]["chosen"] == "SpillwayConnector"
    assert resolved[case]["refusal"] is None


@pytest.mark.parametrize(("case", "reason"), REFUSED.items())
def test_other_engine_has_none_and_says_why(resolved: dict[str, dict[str, Any]], case: str, reason: str) -> None:
    assert resolved[case]["chosen"] is None
    assert reason in resolved[case]["refusal"]


def test_users_own_transfer_configuration_stays(resolved: dict[str, dict[str, Any]]) -> None:
    assert resolved["own connector"]["chosen"] == "ExampleConnector"
    assert resolved["own offloading"]["chosen"] == "OffloadingConnector"
    assert "of its own" in resolved["own connector"]["refusal"]


def test_version_that_was_not_tested_is_left_alone(make_pod: MakePod) -> None:
    version = "0.32.1.dev7+gabc"
    (answer,) = resolve(make_pod(), [{}], version=version)
    assert answer["chosen"] is None
    assert f"not with {version}" in answer["refusal"]


def test_mean_pooled_engine_embeds_the_same_text_twice(make_pod: MakePod, make_engine: MakeEngine) -> None:
    pod = make_pod()
    pod.start_daemon()
    engine = make_engine(pod, runner="pooling", pooler_config={"pooling_type": "MEAN"}, max_num_batched_tokens=8192)
    first = engine.ask("embed", prompt=prompt(1))["vector"]
    assert engine.ask("embed", prompt=prompt(1))["vector"] == first
    assert engine.ask("facts")["connector"] is None


def test_connector_that_stays_inert_changes_no_plan_of_the_engine(
    make_pod: MakePod, make_engine: MakeEngine, client: Path, tmp_path: Path
) -> None:
    """A user who names our connector gets it whatever the gate says, so it stands aside on its own."""
    pod = make_pod()
    pod.start_daemon()
    options: dict[str, Any] = {"enable_prefix_caching": False, "async_scheduling": True}
    alone = make_engine(
        Pod(tmp_path, make_client_folder(tmp_path / "client")), environment={"SPILLWAY_CONFIG": ""}, **options
    )
    expected = alone.ask("facts")
    tokens = alone.ask("generate", prompt=prompt(1))["tokens"]
    alone.close()

    named = {
        "kv_connector": "SpillwayConnector",
        "kv_connector_module_path": "spillway.adapters.vllm.entry",
        "kv_role": "kv_both",
        "kv_connector_extra_config": {"spillway_incarnation": "00"},
    }
    engine = make_engine(pod, kv_transfer_config=named, **options)
    facts = engine.ask("facts")
    assert facts["connector"] == "SpillwayConnector"
    assert "enable_prefix_caching is off" in facts["problem"]
    assert {name: facts[name] for name in ("layout", "defer_block_free")} == {
        name: expected[name] for name in ("layout", "defer_block_free")
    }
    assert engine.ask("generate", prompt=prompt(1))["tokens"] == tokens
