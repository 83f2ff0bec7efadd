"""What goes wrong goes past the engine: equal tokens, no exception, nothing pinned for ever."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.vllm.kit import ARGUMENTS, ENVIRONMENT, Engine, Pod, prompt, wait_for

MakePod = Callable[..., Pod]
MakeEngine = Callable[..., Engine]


@pytest.fixture(scope="module")
def pod(make_pod: MakePod) -> Pod:
    pod = make_pod()
    pod.start_daemon()
    return pod


@pytest.fixture(scope="module")
def engine(pod: Pod, make_engine: MakeEngine) -> Engine:
    engine = make_engine(pod)
    engine.warm_up()
    return engine


def test_reset_while_a_load_is_held_pins_nothing_and_changes_no_token(pod: Pod, engine: Engine) -> None:
    cold = engine.ask("generate", prompt=prompt(1))["tokens"]
    wait_for("the chunks to be inserted", lambda: pod.chunks()[0] >= 3)
    engine.ask("reset_device")
    engine.ask("hold_copies", held=True)
    engine.ask("start", prompt=prompt(1), steps=2)
    assert engine.ask("facts")["open_tickets"] == 1
    engine.ask("reset_cache")
    engine.ask("hold_copies", held=False)

    assert engine.ask("finish")["tokens"] == cold
    wait_for("the ticket to be released", lambda: engine.ask("facts")["open_tickets"] == 0)
    before = engine.external_tokens()
    engine.ask("reset_device")
    assert engine.ask("generate", prompt=prompt(1))["tokens"] == cold
    # The weights may have changed at the reset: what was stored before is under another fingerprint.
    assert engine.external_tokens() == before


def test_failed_load_is_recomputed_once_and_the_request_ends(pod: Pod, engine: Engine) -> None:
    cold = engine.ask("generate", prompt=prompt(2))["tokens"]
    chunks = pod.chunks()[0]
    wait_for("the chunks to be inserted", lambda: pod.chunks()[0] >= min(chunks, 3))
    engine.ask("reset_device")
    engine.ask("fail_copies", failing=True)
    assert engine.ask("generate", prompt=prompt(2))["tokens"] == cold
    engine.ask("fail_copies", failing=False)
    facts = engine.ask("facts")
    assert facts["problem"] is None
    assert facts["counters"]["load_failures"] >= 1
    assert facts["open_tickets"] == 0


def test_exception_inside_a_hook_makes_the_connector_inert(make_engine: MakeEngine, make_pod: MakePod) -> None:
    pod = make_pod()
    pod.start_daemon()
    engine = make_engine(pod)
    engine.warm_up()
    cold = engine.ask("generate", prompt=prompt(3))["tokens"]
    wait_for("the chunks to be inserted", lambda: pod.chunks()[0] >= 3)
    engine.ask("reset_device")
    engine.ask("break_hook", name="sent")  # after the load was prepared, before the ranks hear of it
    assert engine.ask("generate", prompt=prompt(3))["tokens"] == cold
    assert "broken by the test" in engine.ask("facts")["problem"]
    assert engine.ask("generate", prompt=prompt(4))["tokens"]


def test_engine_without_shared_memory_serves(make_pod: MakePod, make_engine: MakeEngine, engine: Engine) -> None:
    pod = make_pod()
    alone = make_engine(pod, environment={"SPILLWAY_ROOT": str(pod.root / "absent")})
    cold = engine.ask("generate", prompt=prompt(5))["tokens"]
    assert alone.ask("generate", prompt=prompt(5))["tokens"] == cold
    assert alone.ask("facts")["connector"] == "SpillwayConnector"
    assert not alone.ask("facts")["ready"]


def choose(pod: Pod, preamble: str = "", **arguments: object) -> str | None:
    """The connector that an engine's configuration ends up with; no engine is started."""
    program = f"""
import json, sys
{preamble}
from vllm.engine.arg_utils import EngineArgs
from vllm.config import KVTransferConfig
arguments = json.loads(sys.argv[1])
if "kv_transfer_config" in arguments:
    arguments["kv_transfer_config"] = KVTransferConfig(**arguments["kv_transfer_config"])
config = EngineArgs(**arguments).create_engine_config()
print("CHOSEN", config.kv_transfer_config and config.kv_transfer_config.kv_connector)
"""
    settings = {key: value for key, value in ARGUMENTS.items() if key != "disable_log_stats"}
    done = subprocess.run(
        [str(ENVIRONMENT / "venv/bin/python"), "-c", program, json.dumps({**settings, **arguments})],
        env={**pod.environment(), "PYTHONPATH": str(pod.client), "HF_HUB_OFFLINE": "1", "VLLM_CPU_KVCACHE_SPACE": "1"},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    chosen = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("CHOSEN")]
    assert chosen, done.stderr[-3000:]
    return chosen[0]


def test_users_own_transfer_configuration_stays(pod: Pod, tmp_path: Path) -> None:
    own = {
        "kv_connector": "ExampleConnector",
        "kv_role": "kv_both",
        "kv_connector_extra_config": {"shared_storage_path": str(tmp_path)},
    }
    assert choose(pod, kv_transfer_config=own) == "ExampleConnector"


def test_other_version_of_vllm_is_left_alone(pod: Pod) -> None:
    assert choose(pod, preamble="import vllm; vllm.__version__ = '0.31.0'") == "None"
