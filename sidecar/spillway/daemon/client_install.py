"""`spillway-client-install DEST`: put the engine's side of Spillway where the engine's PYTHONPATH will find it.

DEST/<version>/ is filled under another name, made durable and renamed; DEST/current then points at it. An engine that
maps the shared object never sees a file change under it: an existing version is left as it is.
"""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import sys
from pathlib import Path

import spillway
from spillway import _core

DISTRIBUTION = "spillway-kv"
# What runs in foreign images: nothing that needs more than Python itself.
PARTS = ("__init__.py", "py.typed", "client", "adapters")
METADATA_FILES = ("METADATA", "entry_points.txt")
_SKIP = shutil.ignore_patterns("__pycache__", "*.pyi")


def main() -> None:
    """Entry point; the exit status says whether the client is in place."""
    if len(sys.argv) != 2:
        sys.exit("usage: spillway-client-install DEST")
    os.umask(0o022)  # the engine may run as any user
    install(Path(sys.argv[1]))


def install(destination: Path) -> Path:
    """Install this version below `destination` and make it current. Returns its folder. Raises OSError."""
    version = importlib.metadata.version(DISTRIBUTION)
    final = destination / version
    if not final.exists():
        partial = destination / f".{version}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        _fill(partial)
        _sync(partial)
        partial.rename(final)
    link = destination / ".current.partial"
    link.unlink(missing_ok=True)
    link.symlink_to(version)
    link.rename(destination / "current")
    _sync_path(destination)
    return final


def _fill(folder: Path) -> None:
    source = Path(spillway.__file__).parent
    package = folder / "spillway"
    package.mkdir(parents=True)
    for part in PARTS:
        if (source / part).is_dir():
            shutil.copytree(source / part, package / part, ignore=_SKIP)
        else:
            shutil.copy2(source / part, package / part)
    shutil.copy2(_core.__file__, package / Path(_core.__file__).name)
    distribution = importlib.metadata.distribution(DISTRIBUTION)
    metadata = folder / f"{DISTRIBUTION.replace('-', '_')}-{distribution.version}.dist-info"
    metadata.mkdir()
    for name in METADATA_FILES:
        text = distribution.read_text(name)
        if text is None:
            raise FileNotFoundError(f"the installed {DISTRIBUTION} has no {name}: install it from its wheel")
        (metadata / name).write_text(text)


def _sync(folder: Path) -> None:
    for path in (*folder.rglob("*"), folder):
        _sync_path(path)


def _sync_path(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


if __name__ == "__main__":
    main()
