"""Request traces as chains of chunks: which formats are read, how a large one is sampled, and a made-up one where there is none.

A line is a request with `hash_ids`, one for each block of its prompt, each standing for the whole prefix up to it (Mooncake's and
kvcache-simulator's format), or a session with `requests` of that kind, ids scoped to the session (kv-cache-tester's). `.gz` is unpacked.
"""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Blocks in formats that do not say so, and how long after another one the next session begins (its times are its own).
MOONCAKE_BLOCK_TOKENS = 512
SESSION_GAP_SECONDS = 120.0
# More than so many chunks in all requests are sampled, which bounds memory and time.
MAX_CHUNKS = 2_000_000


@dataclass(frozen=True)
class Trace:
    """Requests in order of time, each the numbers of its chunks from the first on. sampled: the share of conversations that are in it."""

    name: str
    requests: list[list[int]]
    chunk_tokens: int
    sampled: float = 1.0

    @property
    def chunks(self) -> int:
        """Different chunks."""
        return max((max(chain) for chain in self.requests if chain), default=-1) + 1


def read_trace(path: Path, chunk_tokens: int, max_chunks: int = MAX_CHUNKS) -> Trace:
    """A trace in chunks of so many tokens, or of a block if that is larger. ValueError: not a trace, or blocks do not divide chunks."""
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt") as lines:
        blocks = _read_blocks(json.loads(line) for line in lines if line.strip())
        sample = _Sample(max_chunks)
        block_tokens = 0
        for time, scope, tokens, ids in blocks:
            if block_tokens not in (0, tokens):
                raise ValueError(f"{path.name}: blocks of {block_tokens} and of {tokens} tokens")
            block_tokens = tokens
            if chunk_tokens % tokens and tokens % chunk_tokens:
                raise ValueError(f"{path.name}: chunks of {chunk_tokens} tokens cannot be made of blocks of {tokens}")
            step = max(chunk_tokens // tokens, 1)
            sample.add(time, scope, ids[step - 1 :: step])
    if not block_tokens:
        raise ValueError(f"{path.name}: no requests")
    return Trace(path.name, sample.chains(), max(chunk_tokens, block_tokens), sample.rate)


def make_trace(chunk_tokens: int, seed: int = 1) -> Trace:
    """Chat and agents, made up: for where there is no trace. Conversations share a first chunk, and go on with a chance."""
    source = random.Random(seed)
    fresh = iter(range(1, 1 << 62))
    requests: list[list[int]] = []
    open_ones: list[list[int]] = []
    for _ in range(6000):
        if open_ones and source.random() < 0.7:
            at = len(open_ones) - 1 - min(int(source.expovariate(0.1)), len(open_ones) - 1)
            chain = open_ones.pop(at) + [next(fresh) for _ in range(source.randint(1, 4))]
        else:
            chain = [0, *(next(fresh) for _ in range(source.randint(2, 40)))]
        requests.append(chain)
        if source.random() < (0.85 if len(chain) > 40 else 0.5):
            open_ones.append(chain)
        del open_ones[:-200]
    return Trace("synthetic", requests, chunk_tokens)


def _read_blocks(records: Iterable[dict[str, Any]]) -> Iterator[tuple[float, int, int, list[int]]]:
    """(seconds, scope of the ids, tokens of a block, ids of whole blocks) of each request."""
    for number, record in enumerate(records):
        if "requests" in record:
            for request in record["requests"]:
                time = number * SESSION_GAP_SECONDS + request["t"]
                yield (
                    time,
                    number,
                    record["block_size"],
                    _whole(request["hash_ids"], request["in"], record["block_size"]),
                )
        elif "hash_ids" in record:
            tokens = record.get("block_size", MOONCAKE_BLOCK_TOKENS)
            yield (
                record.get("timestamp", number) / 1000,
                -1,
                tokens,
                _whole(record["hash_ids"], record["input_length"], tokens),
            )
        else:
            raise ValueError(f"line {number + 1} has neither hash_ids nor requests")


def _whole(ids: list[int], tokens: int, block_tokens: int) -> list[int]:
    return ids[: tokens // block_tokens]


class _Sample:
    """Whole conversations, so that a chunk is in with its prefix: by the second chunk, as all may share a system prompt."""

    def __init__(self, max_chunks: int) -> None:
        self._max_chunks, self._chunks = max_chunks, 0
        self._requests: list[tuple[float, int, list[int]]] = []
        self.rate = 1.0

    def add(self, time: float, scope: int, chain: list[int]) -> None:
        if not chain or not self._is_in(scope, chain):
            return
        self._requests.append((time, scope, chain))
        self._chunks += len(chain)
        while self._chunks > self._max_chunks and self.rate > 1 / 1024:
            self.rate /= 2
            self._requests = [request for request in self._requests if self._is_in(*request[1:])]
            self._chunks = sum(len(chain) for _, _, chain in self._requests)

    def _is_in(self, scope: int, chain: list[int]) -> bool:
        mixed = ((scope + 1) * 0x9E3779B97F4A7C15 ^ chain[min(1, len(chain) - 1)] * 0xD1342543DE82EF95) & (1 << 64) - 1
        mixed = (mixed ^ mixed >> 31) * 0xBF58476D1CE4E5B9 & (1 << 64) - 1
        return mixed >> 44 < self.rate * (1 << 20)

    def chains(self) -> list[list[int]]:
        """In order of time, chunks numbered by their first use."""
        numbers: dict[tuple[int, int], int] = {}
        self._requests.sort(key=lambda request: request[0])
        return [[numbers.setdefault((scope, at), len(numbers)) for at in chain] for _, scope, chain in self._requests]
