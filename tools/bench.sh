#!/usr/bin/env bash
# Benchmarks of the core, each figure beside its bound or its peer of the same run. BENCH_FOLDER names the file system to measure;
# ROWS=replay runs the traces through the eviction orders alone, which needs no device.
set -euo pipefail
cd "$(dirname "$0")/.."
replay() { PYTHONPATH=. uv run --no-sync python bench/replay.py; }
case "${ROWS:-}" in
  "") ;;
  replay) replay; exit ;;
  *) echo "bench: no such rows: $ROWS (there is: replay)" >&2; exit 2 ;;
esac
cd sidecar/core/engine
folder=${BENCH_FOLDER:-../../../build/bench}
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
as_root() { if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo "$@"; fi; }
# The peer that the device's figures stand beside.
if ! command -v fio >/dev/null; then
  command -v apt-get >/dev/null || { echo "bench: fio is missing and there is no apt-get to install it" >&2; exit 1; }
  echo "bench: installing Debian package: fio"
  as_root apt-get update -qq
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends fio >/dev/null
fi
cargo bench --locked --bench lookup
cargo bench --locked --bench nvme -- "$folder" "${BENCH_PAIRS:-7}" 8
cargo bench --locked --bench swap_in -- "$folder" "${BENCH_PAIRS:-7}" 8
cd ../../..
uv run --no-sync python bench/describe_copy.py
bash tests/vllm/setup.sh
PYTHONPATH=. uv run --no-sync python bench/waiters.py
replay
