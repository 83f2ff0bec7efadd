#!/usr/bin/env bash
# The quick unit tests of operator and sidecar on the oldest releases that their pyproject.toml files allow, in an environment of its own
# (build/lowest). The Rust core is the one that setup built: its interface is that of every Python from 3.10 on.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$HOME/.local/bin:$PATH"

ENVIRONMENT=build/lowest
uv venv --quiet --clear --python .venv/bin/python "$ENVIRONMENT"
.venv/bin/python - >"$ENVIRONMENT/direct.txt" <<'PYTHON'
import tomllib

for project in ("operator/pyproject.toml", "sidecar/pyproject.toml"):
    with open(project, "rb") as file:
        table = tomllib.load(file)["project"]
    extras = [one for extra in table.get("optional-dependencies", {}).values() for one in extra]
    print(*(one for one in table["dependencies"] + extras if not one.startswith("spillway")), sep="\n")
PYTHON
uv pip install --quiet --python "$ENVIRONMENT" --resolution lowest-direct -r "$ENVIRONMENT/direct.txt"
uv pip freeze --python "$ENVIRONMENT" >"$ENVIRONMENT/frozen.txt"
# What only the tests need is as new as ever; that an old release uses what is deprecated by now is no failure.
uv pip install --quiet --python "$ENVIRONMENT" -c "$ENVIRONMENT/frozen.txt" \
  pytest pytest-asyncio hypothesis jsonschema cel-python typer rich httpx xxhash numpy
PYTHONPATH=operator:sidecar "$ENVIRONMENT/bin/python" -m pytest -q -m "not cluster" -W default::DeprecationWarning -W default::pytest.PytestUnraisableExceptionWarning "$@" \
  tests/unit/{api,controller,injection,kube,resources,webhook,policy} tests/unit/daemon/test_{conditions,http,steps}.py
