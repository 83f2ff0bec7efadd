"""The replay's LRU and optimum beside those of kvcache-simulator (KVCache.AI), which lives in an environment of its own.

`python bench/replay_outside.py TRACE --gib 64,128`: both get the same chunks and score prefixes over the second half.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from bench.replay import GIB, REPOSITORY, TOKEN_BYTES, replay
from bench.replay_policies import REFERENCES
from bench.replay_traces import MAX_CHUNKS, Trace, read_trace

PEER = "kvcache-simulator==0.1.3"
FOLDER = REPOSITORY / "build" / "replay-peer"
# Its model of TOKEN_BYTES a token.
MODEL = ("--model", "llama-3.1-8b", "--kv-precision", "bf16_fp16")


def main(
    trace: Path,
    gib: Annotated[str, typer.Option(help="sizes in GiB")] = "64,128",
    chunk_tokens: Annotated[int, typer.Option(help="tokens of a chunk")] = 512,
    max_chunks: Annotated[
        int, typer.Option(help="of a trace with more in its requests, conversations are sampled")
    ] = MAX_CHUNKS,
) -> None:
    chains = read_trace(trace, chunk_tokens, max_chunks)
    points = ask_peer(chains, [float(size) * chains.sampled for size in gib.split(",")])
    for size, point in zip(gib.split(","), points, strict=False):
        chunks = int(float(size) * GIB * chains.sampled) // (chains.chunk_tokens * TOKEN_BYTES)
        for theirs, ours in (("lru", "LRU"), ("optimal", "Belady")):
            here = replay(chains, REFERENCES[ours](chunks, chains.requests)).second
            print(f"{size} GiB {ours}: {here:.2%}; {PEER} {theirs}: {point[theirs]['hitRate']:.2%}")  # noqa: T201


def ask_peer(trace: Trace, gib: list[float]) -> list[dict[str, Any]]:
    """What it says for each size; it leaves out sizes that the first half of the requests does not fill, and larger ones."""
    program = FOLDER / "bin" / "kvcache-simulator"
    if not program.exists():
        subprocess.run([sys.executable, "-m", "venv", str(FOLDER)], check=True)
        subprocess.run([str(FOLDER / "bin" / "pip"), "install", "--quiet", PEER], check=True)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.jsonl"
        with path.open("w") as lines:
            for chain in filter(None, trace.requests):
                record = {
                    "block_size": trace.chunk_tokens,
                    "hash_ids": chain,
                    "input_length": len(chain) * trace.chunk_tokens,
                }
                lines.write(json.dumps(record) + "\n")
        command = [str(program), "run", "--trace", str(path), *MODEL, "--budgets-gib", ",".join(map(str, gib))]
        command += ["--policies", "lru,optimal", "--backend", "python", "--format", "json", "--no-progress"]
        answer = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return [point["results"] for point in answer["points"]]


if __name__ == "__main__":
    typer.run(main)
