"""What goes into Spillway's own images, built on the host: wheels, locked requirements, the supervisor.

On the host, because there the compilers and their caches already are; the wheel is abi3 for an old glibc and the
supervisor is static, so that neither cares where it was built.
"""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dev.cluster.commands import run
from dev.cluster.progress import step
from dev.cluster.settings import PROJECT, Settings

# Below the folder that the root Dockerfile takes as its context.
PARTS: Final = PROJECT / "build" / "images"
_CORE: Final = PROJECT / "sidecar" / "core"
_TARGET: Final = "x86_64-unknown-linux-gnu"
_GLIBC: Final = "manylinux_2_28"


@dataclass(frozen=True)
class Flavour:
    """A way to build the core. `features` are cargo features; tests use one that breaks the core on purpose."""

    name: str
    features: tuple[str, ...] = ()


PLAIN: Final = Flavour("sidecar")
SWAPPING: Final = Flavour("sidecar-swap", ("swap-chunks",))


def prepare_sidecar(settings: Settings, flavour: Flavour) -> None:
    """Fill the sidecar's part of the context: wheel, requirements, supervisor."""
    folder = _emptied(flavour.name)
    _core_wheel(settings, folder, flavour)
    _requirements(folder, "spillway-kv", "--extra", "daemon")
    with step("compiling the supervisor"):
        environment = {"RUSTFLAGS": "-C target-feature=+crt-static", "CARGO_TARGET_DIR": str(_cargo_folder(settings))}
        run(
            "cargo", "build", "--release", "--locked", "-p", "spillway-supervisor", "--target", _TARGET,
            cwd=_CORE, environment=environment,
        )  # fmt: skip
    shutil.copy2(_cargo_folder(settings) / _TARGET / "release" / "spillway-supervisor", folder)


def prepare_control(settings: Settings) -> None:
    """Fill the control plane's part of the context: both wheels (the operator uses the sidecar's models), requirements."""
    folder = _emptied("control")
    _core_wheel(settings, folder, PLAIN)
    _requirements(folder, "spillway-operator")
    run("uv", "build", "-q", "--wheel", "--out-dir", folder, PROJECT / "operator")
    (folder / ".gitignore").unlink(missing_ok=True)


def _emptied(name: str) -> Path:
    folder = PARTS / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def _cargo_folder(settings: Settings) -> Path:
    # Of its own: cargo locks a target folder, and a developer's build must not wait for an image.
    return settings.build / "cargo"


def _core_wheel(settings: Settings, folder: Path, flavour: Flavour) -> None:
    # maturin finds zig through the python that is first on the PATH.
    path = ":".join([str(Path(sys.executable).parent), *os.get_exec_path()])
    features = ["--features", ",".join(flavour.features)] if flavour.features else []
    with step(f"compiling the core's wheel ({flavour.name})"):
        run(
            sys.executable, "-m", "maturin", "build", "-q", "--release", "--locked", "--zig", "--compatibility", _GLIBC,
            "--out", folder, *features, cwd=PROJECT / "sidecar",
            environment={"CARGO_TARGET_DIR": str(_cargo_folder(settings)), "PATH": path},
        )  # fmt: skip


def _requirements(folder: Path, package: str, *options: str) -> None:
    text = run(
        "uv", "export", "-q", "--frozen", "--no-dev", "--no-emit-workspace", "--no-header", "--no-annotate",
        "--package", package, *options, cwd=PROJECT,
    )  # fmt: skip
    (folder / "requirements.txt").write_text(text)
