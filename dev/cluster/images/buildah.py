"""Builds without any daemon or registry: buildah with a storage of its own, on a Debian base made by mmdebstrap."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from dev.cluster.commands import run
from dev.cluster.images.recipe import Recipe
from dev.cluster.progress import step
from dev.cluster.settings import Settings

_SUITE: Final = "bookworm"
_PACKAGES: Final = ("python3", "python3-venv", "libnuma1", "ca-certificates", "procps", "iproute2")
_BASE: Final = "localhost/spillway-base:2"
_CA_IN_BUILD: Final = "/run/ca.crt"
_CACHE_IN_BUILD: Final = "/uv-cache"


def build(settings: Settings, recipe: Recipe) -> None:
    """Build one image under its name. No layers are cached: with what is mounted a build takes seconds anyway."""
    options = ["--isolation", "chroot", "--layers=false", "--disable-compression", "-q"]
    arguments = dict(recipe.arguments)
    if not recipe.from_scratch:
        arguments["BASE"] = settings.base_image or _ensure_base(settings)
        arguments["UV_CACHE_DIR"] = _CACHE_IN_BUILD
        options += [
            "--volume",
            f"{_uv_cache()}:{_CACHE_IN_BUILD}:rw",
            "--volume",
            f"{_uv(settings)}:/usr/local/bin/uv:ro",
        ]
        if settings.authorities:
            arguments["SSL_CERT_FILE"] = _CA_IN_BUILD
            options += ["--volume", f"{settings.authorities}:{_CA_IN_BUILD}:ro"]
    options += [f"--build-arg={key}={value}" for key, value in arguments.items()]
    options += ["--target", recipe.target] if recipe.target else []
    _buildah(settings, "build", *options, "-f", recipe.dockerfile, "-t", recipe.name, recipe.context)


@contextmanager
def exported(settings: Settings, name: str) -> Iterator[Path]:
    """An image as an OCI layout folder, gone after use; the image leaves buildah's storage too, to save disk."""
    folder = Path(tempfile.mkdtemp(prefix="export-", dir=settings.build))
    try:
        _buildah(settings, "push", "-q", "--disable-compression", name, f"oci:{folder}:{name}")
        _buildah(settings, "rmi", "--force", name)
        _buildah(settings, "rmi", "--prune", check=False)
        yield folder
    finally:
        shutil.rmtree(folder)


def push(settings: Settings, name: str, reference: str) -> None:
    """Push an image to a registry under another name."""
    _buildah(settings, "push", "-q", name, f"docker://{reference}")


def _buildah(settings: Settings, *arguments: str | Path, check: bool = True) -> str:
    storage = settings.build / "storage"
    storage.mkdir(parents=True, exist_ok=True)
    own = ("--root", storage, "--runroot", settings.build / "run", "--storage-driver", "overlay")
    return run("buildah", *own, *arguments, check=check)


def _ensure_base(settings: Settings) -> str:
    """Debian with Python, made from packages once."""
    if _buildah(settings, "images", "-q", _BASE, check=False).strip():
        return _BASE
    settings.build.mkdir(parents=True, exist_ok=True)
    root = settings.build / f"base-{os.getpid()}.tar"
    try:
        with step(f"making the base image ({_SUITE}: {' '.join(_PACKAGES)})"):
            run("mmdebstrap", "-q", "--variant=minbase", f"--include={','.join(_PACKAGES)}", _SUITE, root)
            container = _buildah(settings, "from", "scratch").strip()
            _buildah(settings, "add", "-q", container, root, "/")
            _buildah(settings, "config", "--cmd", "/bin/bash", container)
            _buildah(settings, "commit", "-q", "--disable-compression", container, _BASE)
            _buildah(settings, "rm", container)
    finally:
        root.unlink(missing_ok=True)
    return _BASE


def _uv(settings: Settings) -> str:
    """The uv binary itself: what is on the PATH may be a script that looks for others."""
    candidates = [Path(settings.uv)] if settings.uv else []
    candidates += [Path(folder) / "uv" for folder in os.get_exec_path()]
    for path in candidates:
        if path.is_file() and _is_executable_image(path):
            return str(path.resolve())
    return run("python3", "-c", "import uv; print(uv.find_uv_bin())").strip()


def _is_executable_image(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"\x7fELF"


def _uv_cache() -> str:
    folder = run("uv", "cache", "dir").strip()
    Path(folder).mkdir(parents=True, exist_ok=True)
    return folder
