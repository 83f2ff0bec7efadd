"""Runs inside the vLLM environment: before each step of a real engine every KV token that the step builds on is looked at.

A token's KV is known by the tokens up to it. What was computed for such a prefix first is the reference; whatever lies later in a
block that the engine takes for that prefix (computed again, found on the device, loaded from DRAM or NVMe) must be equal up to the
rounding of another batch. V rows of every layer are compared, as projections on a few directions: V lies in token order on CPUs, K does
not, and a page is copied whole.
"""

from __future__ import annotations

import hashlib
import random
import time
from collections import Counter
from typing import Any

import torch

# Rounding of float32 in another batch is about 1e-6 of a row; another prefix's row is as far as the row is long.
TOLERANCE = 1e-3
DIRECTIONS = 32


class Reference:
    """V rows by prefix, and the comparison. `wrong` names what differed."""

    def __init__(self, engine_core: Any) -> None:
        self._scheduler = engine_core.scheduler
        runner = engine_core.model_executor.driver_worker.worker.model_runner
        config = self._scheduler.kv_cache_config
        context = runner.compilation_config.static_forward_context
        self._groups = [
            (
                group.kv_cache_spec.block_size,
                [self._values(context[name].kv_cache, group) for name in group.layer_names],
            )
            for group in config.kv_cache_groups
        ]
        generator = torch.Generator().manual_seed(0)
        self._directions = [
            torch.randn(sum(layer.shape[1] * layer.shape[3] for layer in layers), DIRECTIONS, generator=generator)
            for _size, layers in self._groups
        ]
        self._rows: dict[tuple[int, bytes], torch.Tensor] = {}
        self._prefixes: dict[str, list[bytes]] = {}
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []

    @staticmethod
    def _values(cache: Any, group: Any) -> torch.Tensor:
        """(blocks, heads, tokens, head size): the second plane of each block and head."""
        tensor = cache[0] if isinstance(cache, list) else cache
        spec = group.kv_cache_spec
        planes = tensor.view(tensor.shape[0], spec.num_kv_heads, 2, spec.block_size, spec.head_size)
        return planes[:, :, 1]

    def _prefix(self, request: Any, count: int) -> list[bytes]:
        """A digest per token of everything up to it; the salt belongs to what is computed only by name, but is kept apart all the same."""
        digests = self._prefixes.setdefault(request.request_id, [])
        for token in list(request.all_token_ids)[len(digests) : count]:
            before = digests[-1] if digests else str(request.cache_salt).encode()
            digests.append(hashlib.blake2b(before + int(token).to_bytes(4, "little"), digest_size=16).digest())
        return digests[:count]

    def blocks(self, request_id: str, first: int, end: int) -> set[tuple[int, int]]:
        """(group, block) of these positions."""
        found: set[tuple[int, int]] = set()
        for number, (size, _layers) in enumerate(self._groups):
            blocks = self._scheduler.kv_cache_manager.get_block_ids(request_id)[number]
            found |= {(number, block) for block in blocks[first // size : -(-end // size)] if block}
        return found

    def _read(
        self, request_id: str, first: int, end: int, without: frozenset[tuple[int, int]] = frozenset()
    ) -> list[tuple[int, int, torch.Tensor]]:
        """(group, position, row) of each position whose block the engine still has, and is none of `without`."""
        found: list[tuple[int, int, torch.Tensor]] = []
        for number, (size, layers) in enumerate(self._groups):
            blocks = self._scheduler.kv_cache_manager.get_block_ids(request_id)[number]
            positions = [
                at
                for at in range(first, end)
                if at // size < len(blocks) and blocks[at // size] != 0 and (number, blocks[at // size]) not in without
            ]
            if not positions:
                continue
            places = (
                torch.tensor([blocks[at // size] for at in positions]),
                torch.tensor([at % size for at in positions]),
            )
            rows = torch.cat([layer[places[0], :, places[1]].reshape(len(positions), -1) for layer in layers], dim=1)
            rows = rows.float() @ self._directions[number]
            found += [(number, at, row) for at, row in zip(positions, rows, strict=True)]
        return found

    def verify(self, request: Any, computed: int, written: frozenset[tuple[int, int]] = frozenset()) -> None:
        """What a step builds on. written: the blocks that the step itself fills, which other requests of the step may build on."""
        digests = self._prefix(request, computed)
        rows, references, names = [], [], []
        for group, at, row in self._read(request.request_id, 0, len(digests), written):
            reference = self._rows.get((group, digests[at]))
            if reference is not None:
                rows.append(row)
                references.append(reference)
                names.append((group, at))
        self.counts["verified"] += len(rows)
        if not rows:
            return
        held, expected = torch.stack(rows), torch.stack(references)
        off = ((held - expected).norm(dim=1) > TOLERANCE * expected.norm(dim=1)).nonzero().flatten().tolist()
        if off:
            group, at = names[off[0]]
            self.wrong.append(
                f"{request.request_id}: {len(off)} of {computed} tokens, first group {group} position {at}"
            )

    def record(self, request: Any, first: int, end: int) -> None:
        """What a step has computed, where it is the first to."""
        digests = self._prefix(request, end)
        for group, at, row in self._read(request.request_id, first, len(digests)):
            if (group, digests[at]) not in self._rows:
                self._rows[group, digests[at]] = row.clone()
                self.counts["recorded"] += 1

    def forget(self, request_id: str) -> None:
        self._prefixes.pop(request_id, None)


def watch(engine_core: Any) -> Reference:
    """Put the look before, and the record after, each step that the engine executes."""
    reference = Reference(engine_core)
    scheduler, execute = engine_core.scheduler, engine_core.model_executor.execute_model

    def execute_model(output: Any, *args: Any, **kwargs: Any) -> Any:
        cached = output.scheduled_cached_reqs
        computed = {one.req_id: one.num_computed_tokens for one in output.scheduled_new_reqs}
        computed.update(zip(cached.req_ids, cached.num_computed_tokens, strict=True))
        reference.counts["preempted"] += len(output.preempted_req_ids or ())
        scheduled = output.num_scheduled_tokens
        written = frozenset().union(
            *(reference.blocks(name, count, count + scheduled[name]) for name, count in computed.items())
        )
        for request_id, count in computed.items():
            reference.verify(scheduler.requests[request_id], count, written)
        answer = execute(output, *args, **kwargs)
        if hasattr(answer, "result"):
            answer.result()
        for request_id, count in computed.items():
            if request_id in scheduler.requests:
                request = scheduler.requests[request_id]
                reference.record(request, count, count + scheduled[request_id])
        reference.counts["steps"] += 1
        return answer

    engine_core.model_executor.execute_model = execute_model
    return reference


def run(llm: Any, seed: int, seconds: float, longest: int) -> dict[str, Any]:
    """Random requests over a tree of shared prefixes, with aborts and a device that forgets, for so long."""
    from vllm import SamplingParams

    engine = llm.llm_engine
    core = engine.engine_core.engine_core
    reference = watch(core)
    source = random.Random(seed)
    stems = [[source.randrange(3, 1000) for _ in range(longest)] for _ in range(5)]
    end, number, alive = time.monotonic() + seconds, 0, set()
    while time.monotonic() < end or engine.has_unfinished_requests():
        while time.monotonic() < end and len(alive) < 8 and source.random() < 0.6:
            number += 1
            stem = source.choice(stems)[: source.randrange(1, source.choice((200, longest - 40)))]
            tail = [source.randrange(3, 1000) for _ in range(source.choice((0, 0, 1, 40)))]
            prompt: dict[str, Any] = {"prompt_token_ids": stem + tail}
            if source.random() < 0.1:
                prompt["cache_salt"] = "a"
            sampling = SamplingParams(
                temperature=0, max_tokens=source.choice((1, 1, 1, 2, 8, 150)), detokenize=False, ignore_eos=True
            )
            engine.add_request(f"kv-{number}", prompt, sampling)
            alive.add(f"kv-{number}")
        for output in engine.step():
            if output.finished:
                alive.discard(output.request_id)
                reference.counts["finished"] += 1
        if alive and source.random() < 0.02:
            name = source.choice(sorted(alive))
            engine.abort_request([name])
            alive.discard(name)
            reference.counts["aborted"] += 1
        if source.random() < 0.2:
            core.scheduler.kv_cache_manager.block_pool.reset_prefix_cache()
        if reference.wrong:
            break
    return {"counts": dict(reference.counts), "wrong": reference.wrong[:5]}
