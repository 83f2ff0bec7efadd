"""Request traces through the eviction orders of both tiers, beside LRU, ARC, S3-FIFO and Belady's optimum.

`python bench/replay.py [TRACE...]`: at each size, the share of the prompts' chunks that a request finds (its longest prefix that is there),
and the seconds of prefill that this saves, over the second half of the requests. The orders' constants were chosen on the first half.
Without a trace: those in the folder SPILLWAY_TRACES, else in a `shared/data` beside the checkout, else a made-up one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from bench.replay_policies import ORDERS, REFERENCES, Cache
from bench.replay_traces import MAX_CHUNKS, Trace, make_trace, read_trace

REPOSITORY = Path(__file__).resolve().parent.parent
RESULTS = REPOSITORY / "bench" / "results" / "latest.json"
ROW = "trace replay"
# Llama-8B in bf16: the size of a token, and the work of its prefill: 2 FLOPs a weight, and 4 for each value of its attention with each
# token before it. The rate is what an H100 reaches in a large prefill, 40 % of its peak.
TOKEN_BYTES = 128 << 10
TOKEN_FLOPS, PAIR_FLOPS, FLOPS_PER_SECOND = 16e9, 4 * 32 * 4096, 4e14
GIB = 1 << 30
DRAM_GIB, NVME_GIB = "32,64,128,256", "512,1024,2048,4096"
ONLINE = ("LRU", "ARC", "S3-FIFO")


@dataclass(frozen=True)
class Score:
    """Of the requests of the second half, and of the first: share of chunks found; seconds of prefill saved in the second."""

    first: float
    second: float
    seconds: float


@dataclass(frozen=True)
class Row:
    """A line of bench/results/latest.json."""

    row: str
    value: float
    unit: str
    reference: str
    reference_value: float
    ratio: float
    spread: float
    target: str
    met: bool


def replay(trace: Trace, cache: Cache) -> Score:
    """Every request in order; nothing here depends on anything but the arguments."""
    found, asked, seconds = [0, 0], [0, 0], 0.0
    for number, chain in enumerate(trace.requests):
        hits = 0
        for chunk in chain:
            if not cache.has(chunk):
                break
            hits += 1
        half = 2 * number >= len(trace.requests)
        found[half] += hits
        asked[half] += len(chain)
        if half:
            seconds += prefill_seconds(hits * trace.chunk_tokens)
        cache.request(chain, hits)
    return Score(found[0] / max(asked[0], 1), found[1] / max(asked[1], 1), seconds)


def prefill_seconds(tokens: int) -> float:
    """What computing a prefix of so many tokens takes."""
    return (TOKEN_FLOPS * tokens + PAIR_FLOPS * tokens * tokens / 2) / FLOPS_PER_SECOND


def find_traces(chunk_tokens: int, max_chunks: int) -> Iterator[Trace]:
    """The traces of this place; a made-up one where there is none."""
    named = os.environ.get("SPILLWAY_TRACES")
    folders = [Path(named)] if named else [parent / "shared" / "data" for parent in REPOSITORY.parents]
    for folder in folders:
        paths = sorted([*folder.glob("*.jsonl"), *folder.glob("*.jsonl.gz")])
        if paths:
            yield from (read_trace(path, chunk_tokens, max_chunks) for path in paths)
            return
    yield make_trace(chunk_tokens)


def main(
    traces: Annotated[
        list[Path] | None, typer.Argument(help="JSONL, also .gz: Mooncake, kvcache-simulator, kv-cache-tester")
    ] = None,
    dram: Annotated[str, typer.Option(help="DRAM sizes in GiB")] = DRAM_GIB,
    nvme: Annotated[str, typer.Option(help="NVMe sizes in GiB")] = NVME_GIB,
    chunk_tokens: Annotated[int, typer.Option(help="tokens of a chunk")] = 512,
    token_bytes: Annotated[int, typer.Option(help="bytes of KV cache of a token")] = TOKEN_BYTES,
    max_chunks: Annotated[
        int, typer.Option(help="of a trace with more in its requests, conversations are sampled")
    ] = MAX_CHUNKS,
    results: Annotated[Path, typer.Option(help="where the rows are added")] = RESULTS,
) -> None:
    console = Console(width=150)
    rows: list[Row] = []
    found = (
        (read_trace(path, chunk_tokens, max_chunks) for path in traces)
        if traces
        else find_traces(chunk_tokens, max_chunks)
    )
    for trace in found:
        asked = sum(map(len, trace.requests))
        console.print(
            f"{trace.name}: {len(trace.requests)} requests, {asked} chunks of {trace.chunk_tokens} tokens, {trace.chunks} different, "
            f"{trace.sampled:.2%} of the conversations; % of chunks found in the second half"
        )
        table = Table(
            "tier",
            "GiB",
            "chunks",
            *ONLINE,
            "Spillway",
            "Belady",
            "% of Belady",
            "best other",
            "ratio",
            "saved s",
            "first half",
            "met",
        )
        for tier, sizes in (("DRAM", dram), ("NVMe", nvme)):
            for gib in map(float, sizes.split(",")):
                size = max(int(gib * GIB * trace.sampled) // (trace.chunk_tokens * token_bytes), 1)
                row = judge(trace, tier, gib, size, table)
                rows.append(row)
        console.print(table)
    write(rows, results)
    console.print(f"{sum(row.met for row in rows)} of {len(rows)} points meet their target; rows in {results}")


def judge(trace: Trace, tier: str, gib: float, size: int, table: Table) -> Row:
    """One size: a line of the table. DRAM: no less than the best online policy; NVMe: no less than LRU."""
    scores = {name: replay(trace, make(size, trace.requests)) for name, make in REFERENCES.items()}
    ours = replay(trace, ORDERS[tier](size, trace.requests))
    best = max(ONLINE, key=lambda name: scores[name].second) if tier == "DRAM" else "LRU"
    reference = scores[best].second
    met = ours.second >= reference
    ratio = ours.second / reference if reference else 1.0
    optimum = scores["Belady"]
    table.add_row(
        tier,
        f"{gib:g}",
        str(size),
        *(f"{scores[name].second:.2%}" for name in ONLINE),
        f"{ours.second:.2%}",
        f"{optimum.second:.2%}",
        f"{ours.second / optimum.second:.1%}" if optimum.second else "-",
        best,
        f"{ratio:.3f}",
        f"{ours.seconds:.0f} (LRU {scores['LRU'].seconds:.0f}, Belady {optimum.seconds:.0f})",
        f"{ours.first:.2%} ({max(scores[name].first for name in ONLINE):.2%})",
        "yes" if met else "NO",
    )
    target = ">= best online policy" if tier == "DRAM" else ">= LRU"
    return Row(
        f"{ROW}: {trace.name}, {tier} {gib:g} GiB",
        ours.second,
        "share of chunks",
        best,
        reference,
        ratio,
        0.0,
        target,
        met,
    )


def write(rows: Sequence[Row], path: Path) -> None:
    """In place of this bench's earlier rows; those of others stay."""
    others = json.loads(path.read_text()) if path.exists() else []
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = [row for row in others if not row["row"].startswith(ROW)]
    path.write_text(json.dumps([*kept, *map(asdict, rows)], indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
