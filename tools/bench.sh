#!/usr/bin/env bash
# Benchmarks of the core, each figure beside its bound or its peer of the same run. BENCH_FOLDER names the file system to measure.
set -euo pipefail
cd "$(dirname "$0")/../sidecar/core/engine"
folder=${BENCH_FOLDER:-../../../build/bench}
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
command -v fio >/dev/null || { echo "bench: fio is missing; install it (Debian: apt-get install fio)" >&2; exit 1; }
cargo bench --locked --bench lookup
cargo bench --locked --bench nvme -- "$folder" "${BENCH_PAIRS:-7}" 8
