#!/usr/bin/env bash
# Rewrites every generated file. `make lint` fails when one differs from what this writes.
set -euo pipefail
cd "$(dirname "$0")/.."
uv run --no-sync python tools/fresh.py --write
