"""A real Python with the folder that the webhook adds: what becomes of VLLM_PLUGINS, and of the image's own sitecustomize."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import spillway

FOLDER = Path(spillway.__file__).parent / "adapters" / "vllm" / "env_from"
SHOW = "import os, sys; print(os.environ.get('VLLM_PLUGINS'), getattr(sys, 'own_ran', False))"


def start(behind: Path, plugins: str | None) -> str:
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": f"{FOLDER}:{behind}"}
    if plugins is not None:
        environment["VLLM_PLUGINS"] = plugins
    done = subprocess.run([sys.executable, "-c", SHOW], env=environment, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout.strip()


@pytest.mark.parametrize(
    ("plugins", "becomes"),
    [(None, "None"), ("", "spillway"), ("tpu", "tpu,spillway"), ("spillway,tpu", "spillway,tpu")],
)
def test_list_names_spillway_where_there_is_one(tmp_path: Path, plugins: str | None, becomes: str) -> None:
    assert start(tmp_path, plugins) == f"{becomes} False"


def test_the_images_own_module_runs_too_and_in_our_place(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import sys; sys.own_ran = sys.modules['sitecustomize'].__file__ == __file__"
    )
    assert start(tmp_path, "tpu") == "tpu,spillway True"


def test_what_the_images_own_module_raises_is_its_own(tmp_path: Path) -> None:
    """Python reports it and goes on, as it does without us."""
    (tmp_path / "sitecustomize.py").write_text("raise RuntimeError('theirs')")
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": f"{FOLDER}:{tmp_path}", "VLLM_PLUGINS": "tpu"}
    done = subprocess.run([sys.executable, "-c", SHOW], env=environment, capture_output=True, text=True, check=True)
    assert "theirs" in done.stderr
    assert done.stdout.strip() == "tpu,spillway False"
