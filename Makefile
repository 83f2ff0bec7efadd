# Everything a person or CI runs. `make help` lists it. PARTS limits `make test` to some parts (see tools/test_parts.py).
SHELL := /bin/bash
.DEFAULT_GOAL := help
CACHE ?= $(or $(SPILLWAY_CACHE),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/spillway)
export SPILLWAY_CACHE := $(CACHE)
# Where setup puts what a machine lacks; a shell that was open before does not look there.
export PATH := $(HOME)/.local/bin:$(HOME)/.cargo/bin:$(PATH)
# Without this an interrupted `make` may leave a half-written wheel that looks newer than its sources.
.DELETE_ON_ERROR:
RUN := uv run --no-sync
PY := $(RUN) python
PARTS ?=
export ROWS ?=
PYTHON ?= python3

.PHONY: help setup lint generate test test-unit test-lowest test-rust test-engine test-gpu test-matrix test-soak test-soak-plane judge-vllm test-fuzz test-e2e test-long test-commands bench images cluster-up cluster-down demo demo-down

help: ## Say what each target does
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | column -t -s $$'\t'

setup: ## Install what building and testing need (Debian packages, uv, Rust, Go) and the Python environment; idempotent
	@bash tools/setup.sh

lint: setup ## ruff, mypy --strict, import walls, generated files fresh, clippy, rustfmt
	@bash tools/lint.sh

generate: setup ## Rewrite generated files: CRD, chart version, docs/metrics.md, the chart's boards
	@bash tools/generate.sh

test: setup ## Everything, from unit tests to the end-to-end on a real Kubernetes; prints how long each part took
	@$(PY) tools/test_parts.py $(PARTS)

test-unit: setup ## Unit and contract tests in Python
	@$(PY) tools/test_parts.py unit

test-lowest: setup ## The quick unit tests on the oldest releases of every dependency that pyproject.toml allows
	@bash tools/test_lowest.sh

test-rust: setup ## Tests of the Rust core
	@$(PY) tools/test_parts.py rust

test-engine: setup ## A real vLLM engine in one process against a real sidecar daemon
	@$(PY) tools/test_parts.py engine

test-gpu: setup ## The copies on a real NVIDIA GPU, with the Python (PYTHON=...) that has torch and vLLM for it
	@PYTHONPATH=.:sidecar $(PYTHON) -m pytest -c /dev/null --rootdir . -q tests/gpu && PYTHONPATH=.:sidecar $(PYTHON) bench/device_copy.py

test-matrix: setup ## The engine tests on the other minors of vLLM that are entered; up to half an hour each
	@bash tools/matrix.sh

test-soak: setup ## The fuzz of KV tokens on a real engine with a dying daemon, SPILLWAY_FUZZ_SECONDS (600) for each of four engines
	@bash tests/vllm/setup.sh && SPILLWAY_FUZZ_SECONDS=$${SPILLWAY_FUZZ_SECONDS:-600} $(PY) -m pytest tests/vllm/test_kv_fuzz.py -q -rP

test-soak-plane: setup ## Random engines against one real daemon, killed, stopped and truncated, with invariants each second: SPILLWAY_SOAK_SECONDS (1800), SPILLWAY_SOAK_SEED
	@$(PY) -m tools.soak --seconds $${SPILLWAY_SOAK_SECONDS:-1800} $${SPILLWAY_SOAK_SEED:+--seed $$SPILLWAY_SOAK_SEED}

judge-vllm: setup ## vLLM's own tests of its offloading connector, of every minor that is entered, on Spillway's; fetched, not committed
	@bash tests/vllm/setup.sh && PYTHONPATH=. $(PY) tests/judge/run.py

test-fuzz: setup ## What engines can write, at random, under the address sanitizer: SPILLWAY_FUZZ_SECONDS (600)
	@bash tools/fuzz_plane.sh

test-e2e: setup ## The end-to-end on a real Kubernetes with a real vLLM
	@$(PY) tools/test_parts.py e2e

test-long: setup ## The end-to-end that takes long and rarely breaks: uninstalling in any order, cold beside restored TTFT
	@$(PY) tools/test_parts.py long

test-commands: setup ## The README's commands one after the other and interrupted, and what they leave on the machine; long
	@$(PY) tools/test_parts.py commands

bench: setup ## Benchmarks, each figure beside its bound or peer of the same run; ROWS=replay: the eviction orders on request traces alone
	@bash tools/bench.sh

images: setup ## Build the images and load them into the tests' cluster
	@$(PY) -m dev.cluster images

cluster-up: setup ## Get the tests' Kubernetes: SPILLWAY_CONTEXT, else kind, else host processes; a second call is a no-op
	@$(PY) -m dev.cluster up

cluster-down: ## End the tests' cluster and leave nothing behind; the demo's is another
	@$(PY) -m dev.cluster down

demo: setup ## The first pool: a chat whose KV cache outlives its engine and its pod
	@$(PY) -m demo up

demo-down: ## Remove what `make demo` made, from whatever state, the cluster included
	@$(PY) -m demo down
