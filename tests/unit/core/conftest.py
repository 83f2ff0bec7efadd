"""A pod per test, in memory where the machine has a memory file system."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from .pod import Pod


@pytest.fixture
def root() -> Iterator[Path]:
    shm = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="spillway-test-", dir=shm if shm.is_dir() else None) as folder:
        yield Path(folder)


@pytest.fixture
def pod(root: Path) -> Iterator[Pod]:
    pod = Pod(root, dead_grace_seconds=0.3)
    yield pod
    pod.plane.close()
