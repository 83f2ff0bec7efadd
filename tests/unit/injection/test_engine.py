"""Which container is the engine."""

from __future__ import annotations

from typing import Any

import pytest
from spillway_operator.injection.engine import looks_like_engine


@pytest.mark.parametrize(
    "container",
    [
        {"image": "vllm/vllm-openai:v0.32.0"},
        {"image": "localhost/vllm-cpu:0.32.0"},
        {"image": "localhost:5000/team/VLLM@sha256:00"},
        {"image": "llm:1", "command": ["vllm", "serve", "/models/m"]},
        {"image": "llm:1", "command": ["/opt/venv/bin/vllm"], "args": ["serve", "m"]},
        {"image": "llm:1", "args": ["python3 -m vllm.entrypoints.openai.api_server --model m"]},
        {"image": "llm:1", "command": ["sh", "-c"], "args": ["set -e; exec vllm  serve $MODEL"]},
    ],
)
def test_recognises_vllm(container: dict[str, Any]) -> None:
    assert looks_like_engine(container)


@pytest.mark.parametrize(
    "container",
    [
        {"image": "registry.vllm.ai/proxy:1"},
        {"image": "nginx:1"},
        {},
        {"image": "llm:1", "command": ["myvllm", "serve"]},
        {"image": "llm:1", "args": ["--upstream", "http://vllm:8000"]},
    ],
)
def test_leaves_other_containers_alone(container: dict[str, Any]) -> None:
    assert not looks_like_engine(container)
