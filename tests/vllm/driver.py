"""Runs inside the vLLM environment: one engine in this process, driven by JSON lines on stdin, answered on stdout.

A command is {"do": name, "with": arguments}; the names are the methods of `Engine`, "stop" ends it. `hold_copies` makes every copy
wait, `start`, `step` and `finish` drive a request in parts.
"""

from __future__ import annotations

import importlib.util
import json
import os
import random
import struct
import sys
import threading
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")


def counters() -> dict[str, int]:
    """The counters of this engine's control file: from 320 on, see docs/formats.md."""
    from spillway import _core

    # Mapped long ago by the core in this process; reading /proc/self/fd keeps its lock, where opening the file by name would not.
    for link in Path("/proc/self/fd").iterdir():
        try:
            target = link.readlink()
        except OSError:
            continue
        if target.name.startswith("ctl-"):
            values = struct.unpack(
                f"<{len(_core.COUNTER_NAMES)}Q", os.pread(int(link.name), 8 * len(_core.COUNTER_NAMES), 320)
            )
            return dict(zip(_core.COUNTER_NAMES, values, strict=True))
    return {}


def break_rank(worker: Any, rank: int) -> None:
    """Runs in the rank's process."""
    from vllm.distributed.kv_transfer import get_kv_transfer_group

    if worker.rank != rank:
        return
    half = get_kv_transfer_group().connector_worker
    real = half.start_kv_transfers

    def start_kv_transfers(metadata: Any) -> None:
        if metadata.load_jobs:
            raise RuntimeError("broken by the test")
        real(metadata)

    half.start_kv_transfers = start_kv_transfers


def scale_norms(worker: Any, factor: float) -> None:
    """Change the weights of a running engine in place. Runs in the rank's process."""
    for name, parameter in worker.model_runner.get_model().named_parameters():
        if "layernorm" in name:
            parameter.data.mul_(factor)


def touch_before_digest(path: Path) -> None:
    """Change a file after the engine has read it and before its weights are digested."""
    from spillway.adapters.vllm import scheduler_side

    real = scheduler_side.digest_loaded

    def digest_loaded(*arguments: Any, **options: Any) -> str:
        path.touch()
        return real(*arguments, **options)

    scheduler_side.digest_loaded = digest_loaded


# kv_transfer_params that no client of ours would send.
HOSTILE: list[Any] = [
    {}, {"kv_load_tiers": []}, {"kv_load_tiers": "CPU"}, {"kv_load_tiers": [{"medium": 7}]}, {"kv_load_tiers": [None, {}]},
    {"kv_load_tiers": [{"medium": "CPU", "locality": "x" * 1000}]}, {"do_remote_prefill": True, "remote_block_ids": [1, 2]},
    {"spillway": {"slot": -1}}, {"n": 1 << 80}, {"": {"": {"": []}}}, [], "text", 7,
]  # fmt: skip


class Engine:
    """The methods are the commands."""

    def __init__(self, arguments: dict[str, Any]) -> None:
        from vllm import LLM

        if "kv_events_config" in arguments:
            from vllm.config import KVEventsConfig

            arguments["kv_events_config"] = KVEventsConfig(**arguments["kv_events_config"])
        if "DRIVER_TOUCHES" in os.environ:
            touch_before_digest(Path(os.environ["DRIVER_TOUCHES"]))
        self.llm = LLM(**arguments)
        self.core = self.llm.llm_engine.engine_core
        self.gate = threading.Event()
        self.gate.set()
        self.number = 0
        self.patched = False
        self.failing = False
        self.resolves = 0
        self.outputs: list[Any] = []

    def _sampling(self, max_tokens: int) -> Any:
        from vllm import SamplingParams

        return SamplingParams(temperature=0, max_tokens=max_tokens, detokenize=False, ignore_eos=True)

    def generate(
        self, prompt: list[int], max_tokens: int = 8, adapter: str | None = None, salt: str | None = None
    ) -> dict[str, Any]:
        """adapter: the folder of a LoRA."""
        from vllm.lora.request import LoRARequest

        asked: dict[str, Any] = {"prompt_token_ids": prompt, **({} if salt is None else {"cache_salt": salt})}
        lora = None if adapter is None else LoRARequest(Path(adapter).name, 1, adapter)
        output = self.llm.generate([asked], self._sampling(max_tokens), use_tqdm=False, lora_request=lora)[0]
        return {"tokens": list(output.outputs[0].token_ids), "cached": output.num_cached_tokens}

    def generate_all(self, prompts: list[list[int]], max_tokens: int = 8) -> dict[str, Any]:
        outputs = self.llm.generate(
            [{"prompt_token_ids": prompt} for prompt in prompts], self._sampling(max_tokens), use_tqdm=False
        )
        return {"tokens": [list(output.outputs[0].token_ids) for output in outputs]}

    def reset_device(self) -> dict[str, Any]:
        """Forget what is cached on the device, without vLLM's word for it, which says that the weights may have changed."""
        core = getattr(self.core, "engine_core", None)
        if core is not None:
            return {"done": bool(core.scheduler.kv_cache_manager.block_pool.reset_prefix_cache())}
        # The scheduler is in another process: prompts too short for a chunk take every block.
        cache = self.llm.llm_engine.vllm_config.cache_config
        tokens = 7 * cache.block_size
        count = 2 + cache.num_gpu_blocks // 7 + cache.num_gpu_blocks % 7
        self.number += 1
        prompts = [{"prompt_token_ids": [3 + self.number, 3 + at] * (tokens // 2)} for at in range(count)]
        self.llm.generate(prompts, self._sampling(1), use_tqdm=False)
        return {"done": True}

    def reset_prefix_cache(self) -> dict[str, Any]:
        return {"done": bool(self.llm.reset_prefix_cache())}

    def reset_cache(self) -> dict[str, Any]:
        return {"done": bool(self.llm.reset_prefix_cache(reset_connector=True))}

    def embed(self, prompt: list[int]) -> dict[str, Any]:
        output = self.llm.embed([{"prompt_token_ids": prompt}], use_tqdm=False)[0]
        return {"vector": list(output.outputs.embedding)}

    def scale_norms_in_memory(self, factor: float) -> dict[str, Any]:
        """As whoever holds a pointer to them could, while the engine stands still."""
        from spillway.adapters.vllm import resident

        resident.IDLE_SECONDS = 0.0
        scale_norms(self.core.engine_core.model_executor.driver_worker.worker, factor)
        return {}

    def scale_norms(self, factor: float) -> dict[str, Any]:
        self.llm.collective_rpc(scale_norms, args=(factor,))
        return {}

    def call_workers(self, method: str) -> dict[str, Any]:
        self.llm.collective_rpc(method)
        return {}

    def metrics(self) -> dict[str, Any]:
        found: dict[str, float] = {}
        found["tells_sources"] = importlib.util.find_spec("vllm.v1.metrics.cache_hit_source") is not None
        for metric in self.llm.get_metrics():
            labels = getattr(metric, "labels", {})
            if "by_source" in metric.name:
                found[f"{metric.name.removeprefix('vllm:')}/{labels.get('source')}"] = metric.value
            elif "kv_offload" in metric.name and hasattr(metric, "value"):
                found[metric.name.removeprefix("vllm:")] = metric.value
        return found

    def facts(self) -> dict[str, Any]:
        config = self.core.engine_core.vllm_config.kv_transfer_config
        scheduler = self.core.engine_core.scheduler
        connector = scheduler.connector
        side = getattr(connector, "_scheduler_side", None)
        attachment = side and side.link.attachment()
        return {
            "connector": config and config.kv_connector,
            "extra": (config.kv_connector_extra_config or {}) if config else {},
            "problem": getattr(connector, "_problem", None),
            "cold": side and side._cold_reason,
            "sealed": bool(side and side._sealed),
            "ready": bool(side and side.session.is_usable()),
            "open_tickets": attachment.open_tickets() if attachment else 0,
            "granted": attachment.granted(0) if attachment else 0,
            "counters": counters(),
            "jobs": len(side._jobs) if side else 0,
            "lingering": len(side.scheduler.lingering.waiting) if side else 0,
            "resolves": self.resolves,
            "layout": scheduler.kv_cache_config.kv_cache_layout,
            "defer_block_free": scheduler.defer_block_free,
        }

    def _patch(self) -> None:
        """Put an Event, and a failure that can be switched on, before the real copy of every job."""
        from spillway.adapters.vllm.worker import SpillwayWorker

        if self.patched:
            return
        self.patched = True
        real = SpillwayWorker._begin

        def begin(worker: SpillwayWorker, job: Any) -> Any:
            self.gate.wait()
            if self.failing and not job.store:
                raise OSError("failed by the test")
            return real(worker, job)

        SpillwayWorker._begin = begin  # type: ignore[method-assign]

    def hold_copies(self, held: bool) -> dict[str, Any]:
        self._patch()
        (self.gate.clear if held else self.gate.set)()
        return {}

    def fail_copies(self, failing: bool) -> dict[str, Any]:
        self._patch()
        self.failing = failing
        return {}

    def load_within_steps(self, budget_bytes: int) -> dict[str, Any]:
        """Whether this vLLM can compute on a load in the step that it is sent with; from now on it does, up to so much of each step."""
        scheduler = self.core.engine_core.scheduler.connector._scheduler_side.scheduler
        if "sync_load_budget_bytes" not in scheduler.config._fields:
            return {"possible": False}
        scheduler.config = scheduler.config._replace(sync_load_budget_bytes=budget_bytes)
        return {"possible": True}

    def call_copies_stuck_after(self, seconds: float) -> dict[str, Any]:
        from spillway.adapters.vllm import copy_thread

        copy_thread.STUCK_SECONDS = seconds  # type: ignore[misc]
        return {}

    def break_rank(self, rank: int) -> dict[str, Any]:
        """That rank raises from now on where it is handed a load, wherever its process is."""
        self.llm.collective_rpc(break_rank, args=(rank,))
        return {}

    def break_hook(self, name: str) -> dict[str, Any]:
        """A method of the connector's scheduler half raises from now on."""

        def broken(*_arguments: Any, **_options: Any) -> None:
            raise RuntimeError("broken by the test")

        setattr(self.core.engine_core.scheduler.connector._scheduler_side, name, broken)
        return {}

    def break_for_one(self, hook: str) -> dict[str, Any]:
        """A step of the scheduler half raises for the next request, and for that one only."""
        side = self.core.engine_core.scheduler.connector._scheduler_side
        owner = {"new_request": side, "resolve": side, "prepare_load": side._manager}.get(hook, side.scheduler)
        real = getattr(owner, hook)

        def broken(*_arguments: Any, **_options: Any) -> None:
            setattr(owner, hook, real)
            raise RuntimeError("broken by the test")

        setattr(owner, hook, broken)
        return {}

    def count_resolves(self) -> dict[str, Any]:
        """From now on `facts` tells how often requests were looked up."""
        session = self.core.engine_core.scheduler.connector._scheduler_side.session
        real = session.loads.resolve

        def resolve(*arguments: Any) -> Any:
            self.resolves += 1
            return real(*arguments)

        session.loads.resolve = resolve
        return {}

    def time_steps(self, steps: int, repeated: bool) -> dict[str, Any]:
        """Thread CPU of the scheduler's rounds, in milliseconds; `repeated`: whether answers may be repeated from memory."""
        scheduler = self.core.engine_core.scheduler
        side = scheduler.connector._scheduler_side
        kept = side._repeat
        if not repeated:
            side._repeat = lambda *_arguments: None
        spent: list[float] = []
        real = scheduler.schedule

        def schedule(*arguments: Any, **options: Any) -> Any:
            started = time.thread_time()
            output = real(*arguments, **options)
            spent.append((time.thread_time() - started) * 1000)
            return output

        scheduler.schedule = schedule
        self.step(steps)
        scheduler.schedule, side._repeat = real, kept
        return {"ms": sorted(spent)}

    def break_completion(self) -> dict[str, Any]:
        """vLLM's own scheduler half raises from now on where it hears of ended jobs."""
        half = self.core.engine_core.scheduler.connector.connector_scheduler
        real = half.update_connector_output

        def update_connector_output(output: Any) -> None:
            if output.kv_connector_worker_meta is not None and output.kv_connector_worker_meta.completed_jobs:
                raise RuntimeError("broken by the test")
            real(output)

        half.update_connector_output = update_connector_output
        return {}

    def subscribe(self, endpoint: str) -> dict[str, Any]:
        """Listen to the engine's own event stream, as a router does."""
        import zmq

        self.subscriber = zmq.Context.instance().socket(zmq.SUB)
        self.subscriber.connect(endpoint)
        self.subscriber.setsockopt(zmq.SUBSCRIBE, b"")
        return {}

    def events(self) -> dict[str, Any]:
        """What the stream brought since the last call: kind, medium, locality and tokens of each event."""
        import msgspec
        from vllm.distributed.kv_events import KVEventBatch

        found: list[Any] = []
        while self.subscriber.poll(100):
            _topic, _number, payload = self.subscriber.recv_multipart()
            for event in msgspec.msgpack.decode(payload, type=KVEventBatch).events:
                tokens = len(getattr(event, "token_ids", ()))
                medium, locality = getattr(event, "medium", None), getattr(event, "locality", None)
                found.append([type(event).__name__, medium, locality, tokens, len(getattr(event, "block_hashes", ()))])
        return {"events": found}

    def fuzz(self, seed: int, prompts: list[list[int]], requests: int) -> dict[str, Any]:
        """Many requests at once with whatever a client may send beside a prompt: outputs by prompt, and what vLLM refused."""
        from vllm import SamplingParams

        random.seed(seed)
        engine = self.llm.llm_engine
        asked: dict[str, int] = {}
        outputs: list[tuple[int, list[int]]] = []
        refused: list[str] = []
        left = requests
        while left or engine.has_unfinished_requests():
            while left and len(asked) < 6 and random.random() < 0.7:
                left -= 1
                self.number += 1
                at = random.randrange(len(prompts))
                name = random.choice(("fuzz-%d", "fuzz %d\n", "fuzz-\u00e9-%d", "f" * 300 + "%d")) % self.number
                extra = random.choice((None, {}, {"kv_transfer_params": random.choice(HOSTILE)}))
                prompt: dict[str, Any] = {"prompt_token_ids": prompts[at]}
                if random.random() < 0.3:
                    prompt["cache_salt"] = random.choice(("a", "b", "\u00e9" * 100))
                try:
                    sampling = SamplingParams(
                        temperature=0, max_tokens=4, detokenize=False, ignore_eos=True, extra_args=extra,
                        prompt_logprobs=random.choice((None, None, None, 1)),
                    )  # fmt: skip
                    engine.add_request(name, prompt, sampling)
                    asked[name] = at
                except Exception as error:  # noqa: BLE001  what vLLM refuses at its door is no matter of ours
                    refused.append(f"{type(error).__name__}: {error}")
            for output in engine.step():
                if output.finished:
                    outputs.append((asked.pop(output.request_id), list(output.outputs[0].token_ids)))
            if asked and random.random() < 0.05:
                name = random.choice(list(asked))
                engine.abort_request([name])
                del asked[name]
            if random.random() < 0.1:
                self.core.engine_core.scheduler.kv_cache_manager.block_pool.reset_prefix_cache()
        return {"outputs": outputs, "refused": refused}

    def fuzz_kv(self, seed: int, seconds: float, longest: int) -> dict[str, Any]:
        import kv_fuzz

        return kv_fuzz.run(self.llm, seed, seconds, longest, lambda: counters().get("loaded_chunks", 0) > 0)

    def shut_down(self) -> dict[str, Any]:
        """End the engine, not its process."""
        self.core.shutdown()
        return {"copy_threads": [thread.name for thread in threading.enumerate() if thread.name == "spillway-copy"]}

    def start(self, prompt: list[int], max_tokens: int = 8, steps: int = 1) -> dict[str, Any]:
        """Add a request and take some engine steps without waiting for its end."""
        self.number += 1
        engine = self.llm.llm_engine
        if not engine.has_unfinished_requests():
            self.outputs = []
        engine.add_request(f"driven-{self.number}", {"prompt_token_ids": prompt}, self._sampling(max_tokens))
        return self.step(steps)

    def step(self, steps: int) -> dict[str, Any]:
        for _ in range(steps):
            self.outputs.extend(self.llm.llm_engine.step())
        return {
            "computed": any(output.outputs[0].token_ids for output in self.outputs),
            "unfinished": self.llm.llm_engine.has_unfinished_requests(),
            "ended": [list(output.outputs[0].token_ids) for output in self.outputs if output.finished],
        }

    def drain(self, seconds: float = 30.0) -> dict[str, Any]:
        """Step as a server does while there is work without a request."""
        end = time.monotonic() + seconds
        while self.core.engine_core.scheduler.has_requests() and time.monotonic() < end:
            self.llm.llm_engine.step()
        return {"done": not self.core.engine_core.scheduler.has_requests()}

    def finish(self) -> dict[str, Any]:
        while self.llm.llm_engine.has_unfinished_requests():
            self.outputs.extend(self.llm.llm_engine.step())
        ended = [list(output.outputs[0].token_ids) for output in self.outputs if output.finished]
        return {"tokens": ended[-1], "cached": self.outputs[-1].num_cached_tokens, "all": ended}


def run(arguments: dict[str, Any]) -> None:
    """Make an engine and answer until told to stop or the commands end."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever an engine prints is log, not answer
    engine = Engine(arguments)
    print(json.dumps({"started": os.getpid()}), file=answers, flush=True)
    for line in sys.stdin:
        command = json.loads(line)
        name, arguments = command["do"], command.get("with", {})
        if name == "stop":
            break
        print(json.dumps(getattr(engine, name)(**arguments)), file=answers, flush=True)


if __name__ == "__main__":
    run(json.loads(sys.argv[1]))
