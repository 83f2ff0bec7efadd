"""Needs an NVIDIA GPU, torch with CUDA and vLLM's compiled operators; on any other machine all of it is skipped, and says so."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.core.pod import root_on


def _missing() -> str | None:
    try:
        import torch
    except ImportError:
        return "torch is not installed"
    if not torch.cuda.is_available():
        return "torch sees no GPU"
    try:
        import vllm._custom_ops  # noqa: F401
    except ImportError as error:
        return f"vLLM's operators are not there: {error}"
    return None


MISSING = _missing()
collect_ignore_glob = ["test_*.py"] if MISSING else []


def pytest_report_header() -> str | None:
    return f"tests/gpu: nothing is run: {MISSING}" if MISSING else None


@pytest.fixture
def make_copier() -> Iterator[Callable[[], Any]]:
    import torch
    from spillway.adapters.vllm.copier import CudaCopier

    made: list[CudaCopier] = []

    def make() -> CudaCopier:
        made.append(CudaCopier(torch.device("cuda:0")))
        return made[-1]

    yield make
    torch.cuda.synchronize()
    for copier in made:
        copier.close()


@pytest.fixture
def shm() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="spillway-test-", dir="/dev/shm") as folder:
        yield Path(folder)


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    with root_on(tmp_path) as root:
        yield root
