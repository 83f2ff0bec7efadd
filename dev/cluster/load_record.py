"""Which images are on a cluster's nodes and what they were built from: a small file per cluster."""

from __future__ import annotations

import json
from pathlib import Path

from dev.cluster.locking import only_one


class LoadRecord:
    """Maps the name of an image to the hash of what it was built from."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> dict[str, str]:
        return dict(json.loads(self._path.read_text())) if self._path.exists() else {}

    def add(self, name: str, content_hash: str) -> None:
        with only_one(self._path.parent, self._path.stem):
            unfinished = self._path.with_suffix(".tmp")
            unfinished.write_text(json.dumps({**self.read(), name: content_hash}, indent=1))
            unfinished.rename(self._path)

    def clear(self) -> None:
        self._path.unlink(missing_ok=True)
