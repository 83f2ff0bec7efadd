#!/usr/bin/env bash
# Every static check, in the order of how fast it fails.
set -euo pipefail
cd "$(dirname "$0")/.."
run() { echo "lint: $*"; "$@"; }
run uv run --no-sync ruff check .
run uv run --no-sync ruff format --check .
run uv run --no-sync lint-imports --no-cache
run uv run --no-sync mypy operator/spillway_operator sidecar/spillway dev demo tools dashboards
run env MYPYPATH=sidecar uv run --no-sync python -m mypy.stubtest spillway._core
run uv run --no-sync python tools/fresh.py
run uv run --no-sync python tools/doc_paths.py
run cargo fmt --manifest-path sidecar/core/Cargo.toml --all --check
run cargo clippy --manifest-path sidecar/core/Cargo.toml --workspace --all-targets --locked --quiet -- -D warnings
