"""Why an engine of this pod goes without Spillway, left where the sidecar finds it.

An engine that never attaches has no control file to say it in. The file lies in the folder that engine and sidecar share; the
sidecar takes it for what it is, a tenant's words.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from spillway.client.settings import DEFAULT_ROOT, ROOT_ENV

FILE_NAME: Final = "refusal"
MAX_BYTES: Final = 1024


def note_refusal(problem: str | None, root: str | None = None) -> None:
    """Leave the reason for the sidecar, or take it back (None). What cannot be written is only not known there."""
    path = Path(root or os.environ.get(ROOT_ENV) or DEFAULT_ROOT, "run", FILE_NAME)
    unfinished = path.with_name(f".{FILE_NAME}.{os.getpid()}")
    try:
        if problem is None:
            path.unlink(missing_ok=True)
            return
        unfinished.write_bytes(problem.encode(errors="replace")[:MAX_BYTES])
        unfinished.replace(path)
    except OSError:
        return


def read_refusal(root: str | os.PathLike[str]) -> str:
    """What an engine left: one line of printable text, empty where there is none."""
    try:
        descriptor = os.open(Path(root, "run", FILE_NAME), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return ""
    with os.fdopen(descriptor, "rb") as file:
        try:
            text = file.read(MAX_BYTES).decode(errors="replace")
        except OSError:
            return ""
    return "".join(character if character.isprintable() else " " for character in text).strip()
