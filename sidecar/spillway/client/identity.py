"""Identity of a cache's content: digests over canonical JSON and over a model's weight files.

A fingerprint says which bytes a key may stand for, so whatever cannot be said exactly makes the engine cold:
`IdentityUnknown` names the field.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Final

SAMPLED_PAGES: Final = 64
PAGE_BYTES: Final = 4096
WEIGHT_SUFFIXES: Final = frozenset({".safetensors", ".bin", ".pt", ".pth", ".gguf", ".npz"})


class IdentityUnknown(Exception):
    """A field of the fingerprint cannot be determined."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field


def canonical_digest(document: object) -> bytes:
    """SHA-256 over sorted, compact JSON. Raises IdentityUnknown for a value that JSON has no exact form for."""
    try:
        text = json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise IdentityUnknown("fingerprint", str(error)) from error
    return hashlib.sha256(text.encode()).digest()


def weights_digest(folder: Path) -> str:
    """Digest of every weight file in `folder`: name, size and 64 pages spread evenly from the first to the last.

    Sampling keeps it at a quarter of a MiB per file; a retrained shard differs in nearly every page. Raises IdentityUnknown.
    """
    digest = hashlib.sha256()
    try:
        files = sorted(path for path in folder.iterdir() if path.suffix in WEIGHT_SUFFIXES and path.is_file())
        for path in files:
            size = path.stat().st_size
            digest.update(f"{path.name}\0{size}\0".encode())
            last = max(0, size - PAGE_BYTES)
            with path.open("rb", buffering=0) as file:
                for offset in sorted({last * page // (SAMPLED_PAGES - 1) for page in range(SAMPLED_PAGES)}):
                    file.seek(offset)
                    digest.update(file.read(PAGE_BYTES))
    except OSError as error:
        raise IdentityUnknown("weights", f"{folder}: {error}") from error
    if not files:
        raise IdentityUnknown("weights", f"{folder} holds no file ending in {', '.join(sorted(WEIGHT_SUFFIXES))}")
    return digest.hexdigest()
