#!/usr/bin/env bash
# The engine tests on every vLLM that is entered but the newest for CPUs, which `make test` runs: real engines of another minor's Python on
# that one's operators. Up to half an hour each.
set -euo pipefail
cd "$(dirname "$0")/.."
bash tests/vllm/setup.sh
status=0
for version in ${VERSIONS:-0.31.0 0.33.0}; do
  folder=$(PYTHONPATH=. uv run --no-sync python tests/vllm/sources.py "$version")
  echo "matrix: vLLM $version"
  SPILLWAY_VLLM_SOURCES=$folder uv run --no-sync python -m pytest tests/vllm -q || status=1
done
exit $status
