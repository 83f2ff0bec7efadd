"""What requests that wait for a load cost the scheduler at each step, beside looking every one of them up again.

`python bench/waiters.py`: a real engine and a real sidecar; 50 requests share a prefix of 7,936 tokens that another one loads, and its copy
is held. Thread CPU of `Scheduler.schedule`, both ways in the same process, in turn.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from rich.console import Console

from tests.vllm.kit import Engine, Pod, make_client_folder, prompt, wait_for

WAITERS, TOKENS, STEPS, ROUNDS = 50, 8000, 40, 3


def figure(sorted_ms: list[float], share: float) -> float:
    return sorted_ms[min(len(sorted_ms) - 1, int(share * len(sorted_ms)))]


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        pod = Pod(root / "pod", make_client_folder(root / "client"), dram_mib=256)
        pod.start_daemon()
        engine = Engine(pod, log=root / "engine.log")
        try:
            engine.warm_up()
            engine.ask("generate", prompt=prompt(1, TOKENS))
            wait_for("the prefix to be inserted", lambda: pod.chunks()[0] >= TOKENS // 256)
            engine.ask("reset_device")
            engine.ask("hold_copies", held=True)
            engine.ask("start", prompt=prompt(1, TOKENS), steps=2)
            for number in range(WAITERS):
                engine.ask("start", prompt=[*prompt(1, TOKENS), 3 + number], steps=0)
            engine.ask("step", steps=3)
            ours: list[float] = []
            theirs: list[float] = []
            for _ in range(ROUNDS):
                theirs += engine.ask("time_steps", steps=STEPS, repeated=False)["ms"]
                ours += engine.ask("time_steps", steps=STEPS, repeated=True)["ms"]
            engine.ask("hold_copies", held=False)
        finally:
            engine.close()
            pod.close()
    ours.sort()
    theirs.sort()
    Console(width=140).print(
        f"{WAITERS} requests wait for one load of {TOKENS} tokens; a scheduling round takes "
        f"{figure(ours, 0.5):.2f} ms of CPU (p99 {figure(ours, 0.99):.2f}); looked up again each time "
        f"{figure(theirs, 0.5):.2f} ms (p99 {figure(theirs, 0.99):.2f}): {figure(theirs, 0.5) / figure(ours, 0.5):.1f} x"
    )


if __name__ == "__main__":
    main()
