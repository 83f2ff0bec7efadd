#!/usr/bin/env bash
# The fuzz of what engines can write, under the address sanitizer: SPILLWAY_FUZZ_SECONDS (600) and SPILLWAY_FUZZ_SEED (1).
# The sanitizer is an unstable flag of the compiler whose runtime stable toolchains ship too.
set -euo pipefail
cd "$(dirname "$0")/../sidecar/core"
host=$(rustc -vV | sed -n 's/^host: //p')
# The guard's own handler takes SIGBUS; what it does not know it passes on to the sanitizer's.
export ASAN_OPTIONS=handle_sigbus=1:allow_user_segv_handler=1:detect_leaks=1
export RUSTC_BOOTSTRAP=1 RUSTFLAGS="-Zsanitizer=address" CARGO_TARGET_DIR=target/asan
export SPILLWAY_FUZZ_SECONDS=${SPILLWAY_FUZZ_SECONDS:-600}
exec cargo test --locked --release --target "$host" -p spillway_engine --test fuzz -- --nocapture
