"""Printed, not judged by a clock: time to first token of an 8k-token prompt, cold beside after an engine restart."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import pytest

from tests.e2e.kit.engine import Engine, make_prompts
from tests.e2e.kit.kube import Kube
from tests.e2e.kit.manifests import make_engine, make_namespace, make_pool

pytestmark = [pytest.mark.cluster, pytest.mark.long]

TOKENS = 8192
SAMPLES = 5
REPORT = Path("build/bench-ttft.json")


@pytest.fixture(scope="module")
def namespace_name() -> str:
    return "e2e-bench-ttft"


def test_ttft_cold_beside_after_engine_restart(kube: Kube, clean_namespace: str) -> None:
    kube.apply(make_namespace(clean_namespace), make_pool(clean_namespace, dram="1536Mi", nvme=None))
    # vLLM's own default of batched tokens on a CPU, with which it computes fastest.
    shape = {"blocks": 140, "block_size": 128, "max_model_len": 8448, "batched_tokens": 4096}
    kube.apply(*make_engine(clean_namespace, model="mid-llama", dtype="bfloat16", **shape))
    engine = Engine(kube, clean_namespace)
    engine.wait_ready()
    prompts = make_prompts(SAMPLES, TOKENS, seed=6)
    for unrelated in make_prompts(2, TOKENS, seed=7):
        engine.time_to_first_token(unrelated)
    cold = [engine.time_to_first_token(prompt) for prompt in prompts]
    engine.restart_engine()
    before = engine.external_tokens()
    after = [engine.time_to_first_token(prompt) for prompt in prompts]
    reused = engine.external_tokens() - before
    figures = {
        "ttft_cold_seconds": statistics.median(cold),
        "ttft_after_engine_restart_seconds": statistics.median(after),
        "ratio": statistics.median(cold) / statistics.median(after),
        "cold_seconds": cold,
        "after_engine_restart_seconds": after,
        "tokens_reused": reused,
    }
    REPORT.parent.mkdir(exist_ok=True)
    REPORT.write_text(json.dumps(figures, indent=2))
    print(
        f"\nTTFT of an {TOKENS}-token prompt on 210M parameters, median of {SAMPLES}: cold {figures['ttft_cold_seconds']:.2f} s, "
        f"after an engine restart {figures['ttft_after_engine_restart_seconds']:.2f} s, {figures['ratio']:.1f}x sooner (bound: 10x)"
    )
    assert reused >= SAMPLES * TOKENS * 0.9
