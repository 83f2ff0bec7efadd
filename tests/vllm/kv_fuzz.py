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
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

# Rounding of float32 in another batch is about 1e-6 of a row; another prefix's row is as far as the row is long.
TOLERANCE = 1e-3
DIRECTIONS = 32
# How much longer a run may take where it has not seen enough: a machine may be busy.
LONGER_SECONDS = 90


@dataclass(frozen=True)
class Group:
    """A group of layers as every rank has it: `heads` are a rank's own."""

    layers: tuple[str, ...]
    block_tokens: int
    heads: int
    head_size: int


def project_rows(worker: Any, groups: list[Group], places: list[tuple[list[int], list[int]]]) -> list[torch.Tensor]:
    """Runs in the rank's process. places: blocks and tokens in them, per group; (tokens, DIRECTIONS) of each in return."""
    context = worker.model_runner.compilation_config.static_forward_context
    found: list[torch.Tensor] = []
    for group, (blocks, tokens) in zip(groups, places, strict=True):
        at = torch.tensor(blocks, dtype=torch.long), torch.tensor(tokens, dtype=torch.long)
        rows = []
        for name in group.layers:
            cache = context[name].kv_cache
            cache = cache[0] if isinstance(cache, list) else cache
            # The second plane of each block and head is V.
            planes = cache.view(cache.shape[0], group.heads, 2, group.block_tokens, group.head_size)
            rows.append(planes[at[0], :, 1, at[1]].reshape(len(blocks), -1).float())
        width = len(group.layers) * group.heads * group.head_size
        generator = torch.Generator().manual_seed(1 + worker.rank)
        found.append(torch.cat(rows, dim=1) @ torch.randn(width, DIRECTIONS, generator=generator))
    return found


Row = tuple[int, int, torch.Tensor]


class Reference:
    """V rows by prefix, and the comparison. `wrong` names what differed."""

    def __init__(self, engine_core: Any) -> None:
        self._scheduler = engine_core.scheduler
        self._executor = engine_core.model_executor
        self._groups = [
            Group(
                tuple(group.layer_names),
                group.kv_cache_spec.block_size,
                group.kv_cache_spec.num_kv_heads,
                group.kv_cache_spec.head_size,
            )
            for group in self._scheduler.kv_cache_config.kv_cache_groups
        ]
        self._rows: dict[tuple[int, bytes], torch.Tensor] = {}
        self._prefixes: dict[str, list[bytes]] = {}
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []

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
        for number, group in enumerate(self._groups):
            blocks = self._scheduler.kv_cache_manager.get_block_ids(request_id)[number]
            size = group.block_tokens
            found |= {(number, block) for block in blocks[first // size : -(-end // size)] if block}
        return found

    def _read(
        self, asked: list[tuple[str, int, int]], without: frozenset[tuple[int, int]] = frozenset()
    ) -> list[list[Row]]:
        """(group, position, row) of each position first..end of each request whose block the engine still has, and is none of
        `without`. One call to the ranks for all."""
        places: list[tuple[list[int], list[int]]] = [([], []) for _ in self._groups]
        owners: list[list[tuple[int, int]]] = [[] for _ in self._groups]
        for index, (request_id, first, end) in enumerate(asked):
            tables = self._scheduler.kv_cache_manager.get_block_ids(request_id)
            for number, group in enumerate(self._groups):
                size, blocks = group.block_tokens, tables[number]
                for at in range(first, min(end, size * len(blocks))):
                    block = blocks[at // size]
                    if block and (number, block) not in without:
                        places[number][0].append(block)
                        places[number][1].append(at % size)
                        owners[number].append((index, at))
        found: list[list[Row]] = [[] for _ in asked]
        if any(owners):
            ranks = self._executor.collective_rpc(project_rows, args=(self._groups, places))
            for number, owner in enumerate(owners):
                rows = torch.cat([rank[number] for rank in ranks], dim=1)
                for (index, at), row in zip(owner, rows, strict=True):
                    found[index].append((number, at, row))
        return found

    def verify(self, computed: list[tuple[Any, int]], written: frozenset[tuple[int, int]]) -> None:
        """What a step builds on: so many tokens of each request. written: the blocks that the step itself fills, which other requests
        of the step may build on."""
        digests = [self._prefix(request, count) for request, count in computed]
        asked = [(request.request_id, 0, len(prefix)) for (request, _), prefix in zip(computed, digests, strict=True)]
        for (request, count), prefix, found in zip(computed, digests, self._read(asked, written), strict=True):
            pairs = [
                ((group, at), row, self._rows[group, prefix[at]])
                for group, at, row in found
                if (group, prefix[at]) in self._rows
            ]
            self.counts["verified"] += len(pairs)
            if not pairs:
                continue
            held, expected = torch.stack([row for _, row, _ in pairs]), torch.stack([row for _, _, row in pairs])
            off = ((held - expected).norm(dim=1) > TOLERANCE * expected.norm(dim=1)).nonzero().flatten().tolist()
            if off:
                group, at = pairs[off[0]][0]
                self.wrong.append(
                    f"{request.request_id}: {len(off)} of {count} tokens, first group {group} position {at}"
                )

    def record(self, computed: list[tuple[Any, int, int]]) -> None:
        """What a step has computed, first..end of each request, where it is the first to."""
        digests = [self._prefix(request, end) for request, _, end in computed]
        asked = [
            (request.request_id, first, len(prefix))
            for (request, first, _), prefix in zip(computed, digests, strict=True)
        ]
        for prefix, found in zip(digests, self._read(asked), strict=True):
            for group, at, row in found:
                if (group, prefix[at]) not in self._rows:
                    self._rows[group, prefix[at]] = row.clone()
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
        reference.verify([(scheduler.requests[name], count) for name, count in computed.items()], written)
        answer = execute(output, *args, **kwargs)
        if hasattr(answer, "result"):
            answer.result()
        reference.record(
            [
                (scheduler.requests[name], count, count + scheduled[name])
                for name, count in computed.items()
                if name in scheduler.requests
            ]
        )
        reference.counts["steps"] += 1
        return answer

    engine_core.model_executor.execute_model = execute_model
    return reference


def run(llm: Any, seed: int, seconds: float, longest: int, is_enough: Callable[[], bool]) -> dict[str, Any]:
    """Random requests over a tree of shared prefixes, with aborts and a device that forgets, for so long and until it is enough."""
    from vllm import SamplingParams

    engine = llm.llm_engine
    core = engine.engine_core.engine_core
    reference = watch(core)
    source = random.Random(seed)
    stems = [[source.randrange(3, 1000) for _ in range(longest)] for _ in range(5)]
    end, number, alive = time.monotonic() + seconds, 0, set()

    def goes_on() -> bool:
        over_seconds = time.monotonic() - end
        return over_seconds < 0 or (over_seconds < LONGER_SECONDS and not is_enough())

    while goes_on() or engine.has_unfinished_requests():
        while goes_on() and len(alive) < 8 and source.random() < 0.6:
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
