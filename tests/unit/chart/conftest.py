"""Renders the chart with the real helm, which is compiled first where this machine has none."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from dev.cluster import binaries
from dev.cluster.settings import PROJECT, Settings

Render = Callable[..., str]


@pytest.fixture(scope="session")
def chart() -> Path:
    return PROJECT / "charts" / "spillway"


@pytest.fixture(scope="session")
def render(chart: Path) -> Render:
    """`helm template` with `--set` values; raises CalledProcessError, whose stderr says what helm refused."""
    helm = binaries.tool(Settings.from_environment(), binaries.HELM)

    def run(
        *values: str, kube_version: str = "1.34.2", release: str = "spillway", namespace: str = "spillway-system"
    ) -> str:
        settings = [argument for value in values for argument in ("--set", value)]
        argv = [str(helm), "template", release, str(chart), "-n", namespace, "--kube-version", kube_version]
        return subprocess.run([*argv, *settings], check=True, capture_output=True, text=True).stdout

    return run


@pytest.fixture(scope="session")
def manifests(render: Render) -> list[dict[str, Any]]:
    """Every object of the default rendering."""
    return [document for document in yaml.safe_load_all(render()) if document]
