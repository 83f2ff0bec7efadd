"""Which vLLM is entered, and how an interface that moved is told."""

from __future__ import annotations

import pytest
from spillway.adapters.vllm.compat import Interface, interface_problem, version_problem


@pytest.mark.parametrize("version", ["0.32.0", "0.32.3", "0.32.0+cpu", "0.32.1+cu129", "0.32.0.post1"])
def test_releases_of_a_tested_minor_are_entered(version: str) -> None:
    assert version_problem(version) is None


@pytest.mark.parametrize("version", ["0.31.0", "0.33.0", "0.32.1.dev7+g1a2b3c", "0.32.1rc1", "0.320.0", "dev", ""])
def test_everything_else_is_left_alone_by_name(version: str) -> None:
    assert f"not with {version}" in str(version_problem(version))


def test_interface_that_moved_is_named() -> None:
    assert interface_problem([Interface("json", "JSONEncoder.encode", ("o",))]) is None
    assert "json.JSONEncoder.gone is not there" in str(interface_problem([Interface("json", "JSONEncoder.gone")]))
    assert "nowhere.x is not there" in str(interface_problem([Interface("nowhere", "x")]))
    assert "does not take expedited" in str(interface_problem([Interface("json", "loads", ("s", "expedited"))]))
