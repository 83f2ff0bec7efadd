"""A model with windowed layers: several KV groups, of which only the last window of some is stored and loaded."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

from tests.vllm.kit import ENVIRONMENT, HERE, Engine, Pod, prompt, wait_for


def make_model(folder: Path, window_tokens: int) -> str:
    program = [ENVIRONMENT / "venv/bin/python", HERE / "hybrid_model.py", folder, str(window_tokens)]
    subprocess.run(program, check=True, capture_output=True)
    return str(folder)


def test_window_shorter_than_a_chunk_is_loaded(
    make_pod: Callable[..., Pod], make_engine: Callable[..., Engine], tmp_path: Path
) -> None:
    """As in gpt-oss: vLLM frees what lies before the window while a prompt is still being prefilled."""
    pod = make_pod(dram_mib=128)
    pod.start_daemon()
    # Steps end inside chunks: 300 is no multiple of any chunk's tokens.
    engine = make_engine(pod, model=make_model(tmp_path / "model", 128), max_num_batched_tokens=300)
    engine.warm_up()
    cold = engine.ask("generate", prompt=prompt(1, 2100))["tokens"]
    engine.ask("generate", prompt=prompt(0, 40), max_tokens=1)  # a finished request's last chunks go with the next step

    def load() -> int:
        engine.ask("reset_device")
        before = engine.external_tokens()
        assert engine.ask("generate", prompt=prompt(1, 2100))["tokens"] == cold
        return engine.external_tokens() - before

    wait_for("the whole prefix to load", lambda: load() == 2048)
    assert engine.ask("facts")["problem"] is None


def test_windows_are_loaded_from_dram_and_from_nvme(
    make_pod: Callable[..., Pod], make_engine: Callable[..., Engine], tmp_path: Path
) -> None:
    model = make_model(tmp_path / "tiny-gemma3", 512)
    pod = make_pod(dram_mib=64, nvme_mib=256)
    pod.start_daemon()
    engine = make_engine(pod, model=model)
    engine.warm_up()
    cold = engine.ask("generate", prompt=prompt(1, 2000))["tokens"]
    engine.ask("generate", prompt=prompt(0, 40), max_tokens=1)  # a finished request's last chunks go with the next step
    # Seven chunks of the group that looks at everything; of the others at least what a window needs.
    stored = wait_for("the chunks to be on NVMe", lambda: pod.chunks()[1] if pod.chunks()[1] >= 7 + 2 else 0)

    def load() -> int:
        engine.ask("reset_device")
        before = engine.external_tokens()
        assert engine.ask("generate", prompt=prompt(1, 2000))["tokens"] == cold
        return engine.external_tokens() - before

    wait_for("the whole prefix to load from DRAM", lambda: load() == 1792)
    seed = 100
    while pod.metric("spillway_evicted_chunks_total", 'tier="dram"') < stored:
        engine.ask("generate", prompt=prompt(seed, 2000), max_tokens=1)
        seed += 1
        assert seed < 140, "40 prompts of 2000 tokens did not push the first one out of 64 MiB"
    assert load() == 1792
    assert engine.cached_tokens("disk") != 0
    assert engine.ask("facts")["counters"]["loaded_nvme_tokens"] > 0
