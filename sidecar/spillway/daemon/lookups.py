"""Totals of the engines' own counters that survive an engine's end: its control file, and with it its counters, goes away."""

from __future__ import annotations

from collections import Counter
from typing import Any


class Lookups:
    """Sum of every incarnation's counters since the daemon's start."""

    def __init__(self) -> None:
        self._last: dict[bytes, Counter[str]] = {}
        self._ended: Counter[str] = Counter()

    def observe(self, engines: list[dict[str, Any]]) -> None:
        """Take the counters of the engines that `Plane.stats` tells of; those it tells of no more have ended."""
        now = {engine["incarnation"]: Counter(engine["counters"]) for engine in engines}
        for incarnation in self._last.keys() - now.keys():
            self._ended.update(self._last[incarnation])
        self._last = now

    def total(self, name: str) -> int:
        """One counter over all engines, ended ones included."""
        return self._ended[name] + sum(counters[name] for counters in self._last.values())
