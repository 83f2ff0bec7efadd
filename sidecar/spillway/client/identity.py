"""Identity of a cache's content: digests over canonical JSON and over a model's files.

A fingerprint says which bytes a key may stand for, so whatever cannot be said exactly makes the engine cold:
`IdentityUnknown` names the field.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

WEIGHT_SUFFIXES: Final = frozenset({".safetensors", ".bin", ".pt", ".pth", ".gguf", ".npz"})
# A model may bring its own code, and how its weights are quantised and scaled stands beside them.
MODEL_SUFFIXES: Final = WEIGHT_SUFFIXES | {".py", ".json"}
READ_BYTES: Final = 1 << 20
MAX_REMEMBERED_FILES: Final = 4096


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


@dataclass(frozen=True)
class _Stamp:
    """What changes with a file's content: no writer can set its change time back."""

    device: int
    inode: int
    size_bytes: int
    modified_ns: int
    changed_ns: int

    @classmethod
    def of(cls, seen: os.stat_result) -> _Stamp:
        return cls(seen.st_dev, seen.st_ino, seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns)

    def __str__(self) -> str:
        return f"{self.device}:{self.inode}:{self.size_bytes}:{self.modified_ns}:{self.changed_ns}"


class FileDigests:
    """Digests of whole files, remembered by their stamps in a file beside the pod's other run-time state.

    What cannot be read or written there is computed again; nothing depends on it but time.
    """

    def __init__(self, memory: Path | None = None) -> None:
        self._memory = memory
        self._known: dict[str, str] = {}
        if memory is not None:
            try:
                known = json.loads(memory.read_text())
                self._known = {str(stamp): str(digest) for stamp, digest in known.items()}
            except (OSError, ValueError, AttributeError):
                self._known = {}

    def digest(self, path: Path) -> str:
        """SHA-256 of every byte. Raises OSError, and IdentityUnknown where the file changes meanwhile."""
        with path.open("rb", buffering=0) as file:
            stamp = _Stamp.of(os.fstat(file.fileno()))
            known = self._known.get(str(stamp))
            if known is not None:
                return known
            digest, buffer = hashlib.sha256(), memoryview(bytearray(READ_BYTES))
            while read := file.readinto(buffer):
                digest.update(buffer[:read])
            if _Stamp.of(os.fstat(file.fileno())) != stamp:
                raise IdentityUnknown("weights", f"{path} changed while it was read")
        self._known[str(stamp)] = digest.hexdigest()
        self._remember()
        return digest.hexdigest()

    def _remember(self) -> None:
        if self._memory is None:
            return
        newest = dict(list(self._known.items())[-MAX_REMEMBERED_FILES:])
        unfinished = self._memory.with_name(f".{self._memory.name}.{os.getpid()}")
        try:
            unfinished.write_text(json.dumps(newest))
            unfinished.replace(self._memory)
        except OSError:
            unfinished.unlink(missing_ok=True)


def _model_files(folder: Path) -> Iterator[Path]:
    """The weight files of `folder` and what is read with them, by name. Raises IdentityUnknown where there are no weights."""
    try:
        files = sorted(path for path in folder.iterdir() if path.suffix in MODEL_SUFFIXES and path.is_file())
    except OSError as error:
        raise IdentityUnknown("weights", f"{folder}: {error}") from error
    if not any(path.suffix in WEIGHT_SUFFIXES for path in files):
        raise IdentityUnknown("weights", f"{folder} holds no file ending in {', '.join(sorted(WEIGHT_SUFFIXES))}")
    return iter(files)


def weights_stamp(folder: Path) -> str:
    """Digest of the names and stamps of a model's files: equal before and after means that no byte changed between.

    Raises IdentityUnknown.
    """
    try:
        return canonical_digest([[path.name, str(_Stamp.of(path.stat()))] for path in _model_files(folder)]).hex()
    except OSError as error:
        raise IdentityUnknown("weights", f"{folder}: {error}") from error


def newest_change_seconds(folder: Path) -> float:
    """When a model's files last changed, as seconds since the epoch. Raises IdentityUnknown."""
    try:
        return max(path.stat().st_ctime for path in _model_files(folder))
    except OSError as error:
        raise IdentityUnknown("weights", f"{folder}: {error}") from error


def weights_digest(folder: Path, digests: FileDigests | None = None) -> str:
    """Digest of a model's files, every byte of them: a norm or a scale is a few KiB in many GiB, and changes every output.

    One core hashes about 1 to 2 GB/s, so call it off the engine's loop. Raises IdentityUnknown.
    """
    digests = digests or FileDigests()
    try:
        return canonical_digest([[path.name, digests.digest(path)] for path in _model_files(folder)]).hex()
    except OSError as error:
        raise IdentityUnknown("weights", f"{folder}: {error}") from error
