"""Totals of the engines' own counters that survive an engine's end, with its control file, and the daemon's.

They are kept beside the index, which engines cannot write. A daemon that began at zero again while engines live would have
Prometheus count what those had counted already a second time.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import structlog

from spillway import _core

FILE_NAME: Final = "engine-totals.json"

log = structlog.get_logger()


class Lookups:
    """Sum of every incarnation's counters since the pod's start. `folder` is the daemon's own, in memory that outlives it."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / FILE_NAME
        self._last: dict[str, Counter[str]] = {}
        self._ended: Counter[str] = Counter()
        self._load()

    def observe(self, engines: Sequence[_core.EngineStats]) -> None:
        """Take the counters of the engines that `Plane.stats` tells of; those it tells of no more have ended."""
        now = {engine.incarnation.hex(): Counter(engine.counters) for engine in engines}
        if now == self._last:
            return
        for incarnation in self._last.keys() - now.keys():
            self._ended.update(self._last[incarnation])
        self._last = now
        self._save()

    def total(self, name: str) -> int:
        """One counter over all engines, ended ones included."""
        return self._ended[name] + sum(counters[name] for counters in self._last.values())

    def _load(self) -> None:
        try:
            kept = json.loads(self._file.read_text())
            self._last = {name: Counter(counters) for name, counters in kept["last"].items()}
            self._ended = Counter(kept["ended"])
        except FileNotFoundError:
            return
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            log.warning("the engines' totals begin anew", path=str(self._file), error=str(error))
            self._last, self._ended = {}, Counter()

    def _save(self) -> None:
        unfinished = self._file.with_suffix(".new")
        try:
            unfinished.write_text(json.dumps({"last": self._last, "ended": self._ended}))
            unfinished.replace(self._file)
        except OSError as error:
            # What counts now is right; only a successor would begin anew.
            log.warning("the engines' totals cannot be kept", path=str(self._file), error=str(error))
