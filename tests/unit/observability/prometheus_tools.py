"""Debian's prometheus and promtool, where `make setup` put them, or those on the PATH."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from dev.cluster.settings import Settings


def find_tool(name: str) -> Path:
    """Path of `name`; says how to get it where it is missing."""
    unpacked = Settings.from_environment().cache / "prometheus" / "usr" / "bin" / name
    found = unpacked if unpacked.exists() else shutil.which(name)
    assert found, f"{name} is missing: run `make setup`"
    return Path(found)


def promtool(*arguments: str, text: str = "") -> str:
    """Run promtool; what it says is in the message where it objects to anything."""
    ran = subprocess.run([find_tool("promtool"), *arguments], input=text, capture_output=True, text=True, timeout=600)
    assert ran.returncode == 0, f"promtool {' '.join(arguments)}:\n{ran.stdout}{ran.stderr}"
    return ran.stdout + ran.stderr
