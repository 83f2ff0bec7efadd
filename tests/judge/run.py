"""`python tests/judge/run.py [VERSION ...]`: vLLM's own tests of its offloading connector on ours, for every version that is entered.

The tests come from the version's source distribution (`tests/vllm/sources.py`). The last line of each version counts them; the exit
status is 1 when any failed, or when nothing of Spillway's took part.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console

from tests.vllm.kit import CACHE, ENVIRONMENT, make_client_folder
from tests.vllm.sources import TESTS, sources

# One final release of each minor in `spillway.adapters.vllm.compat.TESTED`.
VERSIONS: Final = ("0.31.0", "0.32.0", "0.33.0")
PYTEST: Final = "pytest==9.2.0"
SUITE: Final = f"{TESTS}/unit/offloading_connector"
SECONDS: Final = 900
HERE: Final = Path(__file__).resolve().parent


def pytest_folder() -> Path:
    """pytest beside the engine's environment, not in it: what is tested there is what the image has."""
    folder = CACHE / "judge" / PYTEST
    if not folder.exists():
        made = folder.with_suffix(".made")
        command = ["uv", "pip", "install", "--quiet", "--python", str(ENVIRONMENT / "venv/bin/python"), "--target"]
        subprocess.run([*command, str(made), PYTEST, "pytest-asyncio"], check=True)
        made.rename(folder)
    return folder


def client_folder() -> Path:
    folder = CACHE / "judge" / "client"
    if folder.exists():
        subprocess.run(["rm", "-rf", str(folder)], check=True)
    return make_client_folder(folder)


def judge(version: str, console: Console) -> bool:
    """Whether all that apply passed."""
    folder = sources(version)
    path = [str(folder), str(client_folder()), str(HERE), str(pytest_folder())]
    options = [
        "-c",
        os.devnull,
        "--rootdir=.",
        f"--confcutdir={SUITE}",
        "-p",
        "spillway_judged",
        "-p",
        "no:cacheprovider",
    ]
    run = subprocess.run(
        [str(ENVIRONMENT / "venv/bin/python"), "-m", "pytest", "-q", "--disable-warnings", "-rf", *options, SUITE],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path), "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    counts = re.findall(r"^\d+ (?:passed|failed).*$", run.stdout, re.M)
    took_part = re.findall(r"^of Spillway's took part: (\d.*)$", run.stdout, re.M)
    passed = run.returncode == 0 and bool(counts) and bool(took_part)
    if not passed:
        console.print(run.stdout[-8000:], run.stderr[-2000:])
    console.print(
        f"vLLM {version}: {counts[-1] if counts else 'did not run'}; took part: {''.join(took_part) or 'nothing'}"
    )
    return passed


def main(versions: Annotated[list[str] | None, typer.Argument()] = None) -> None:
    console = Console(soft_wrap=True, highlight=False, markup=False)
    results = [judge(version, console) for version in versions or VERSIONS]
    raise typer.Exit(0 if all(results) else 1)


if __name__ == "__main__":
    typer.run(main)
