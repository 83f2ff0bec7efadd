"""Whatever a client sends beside its prompt: the engine goes on, its outputs are the model's, and nothing stays pinned."""

from __future__ import annotations

import random
from collections.abc import Callable

from tests.vllm.kit import Engine, Pod, prompt, wait_for

# Around the ends of blocks and chunks, and longer than a step.
LENGTHS = (1, 2, 31, 32, 255, 256, 257, 700, 1024, 2500)


def test_hostile_requests(make_pod: Callable[..., Pod], make_engine: Callable[..., Engine]) -> None:
    pod = make_pod(dram_mib=64, nvme_mib=256)
    pod.start_daemon()
    # A small device, so that requests are preempted and prefixes come back from outside.
    engine = make_engine(pod, num_gpu_blocks_override=160, max_model_len=4096)
    prompts = [prompt(seed, length) for seed, length in enumerate(LENGTHS)]
    expected = [engine.ask("generate", prompt=one, max_tokens=4)["tokens"] for one in prompts]
    engine.warm_up()

    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    answer = engine.ask("fuzz", seed=seed, prompts=prompts, requests=200)

    assert len(answer["outputs"]) > 100, answer["refused"][:3]
    wrong = [(at, tokens) for at, tokens in answer["outputs"] if tokens != expected[at]]
    assert wrong == []
    assert engine.external_tokens() > 0
    assert engine.ask("facts")["problem"] is None

    def settled() -> bool:
        engine.ask("generate", prompt=prompt(0, 40), max_tokens=1)
        facts = engine.ask("facts")
        return facts["jobs"] == 0 and facts["open_tickets"] == 0

    wait_for("every job and pin to be over", settled)
