"""What an image is made of."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from dev.cluster.settings import PROJECT

_IGNORED: Final = {"target", "__pycache__", ".mypy_cache", ".ruff_cache", ".pytest_cache"}
_IGNORED_SUFFIXES: Final = {".so", ".pyc", ".swp"}


def _nothing() -> None:
    return


@dataclass(frozen=True)
class Recipe:
    """One image. `inputs` are the files and folders that decide its content; `prepare` fills the context from them."""

    name: str
    dockerfile: Path
    context: Path
    inputs: tuple[Path, ...]
    target: str = ""
    arguments: dict[str, str] = field(default_factory=dict)
    prepare: Callable[[], None] = _nothing
    from_scratch: bool = False

    def content_hash(self) -> str:
        """SHA-256 over names and contents of all inputs, the Dockerfile and the arguments."""
        digest = hashlib.sha256(repr((self.target, sorted(self.arguments.items()))).encode())
        for path in sorted(_files((self.dockerfile, *self.inputs))):
            name = path.relative_to(PROJECT) if path.is_relative_to(PROJECT) else path.name
            digest.update(f"\0{name}\0".encode())
            digest.update(hashlib.sha256(path.read_bytes()).digest())
        return digest.hexdigest()


def _files(roots: Iterable[Path]) -> Iterable[Path]:
    for root in roots:
        if root.is_file():
            yield root
            continue
        for path in root.rglob("*"):
            hidden = _IGNORED.intersection(path.relative_to(root).parts)
            if path.is_file() and not hidden and path.suffix not in _IGNORED_SUFFIXES:
                yield path
