"""The plane belongs to one thread; everyone else sees snapshots that this thread makes when it is asked to.

Unasked, one is made every two seconds, for the conditions and for the counters of engines that end. An asker waits for a
fresh one for at most a second and else gets the last, so that HTTP answers while the loop hangs.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from spillway import _core
from spillway.status import SidecarCondition

FRESH_WITHIN_SECONDS = 1.0


@dataclass(frozen=True)
class Snapshot:
    """The daemon at one moment. `stats` and `report` are the core's own, None before the plane is open."""

    state: str
    conditions: tuple[SidecarCondition, ...] = ()
    stats: _core.Stats | None = None
    report: _core.Report | None = None
    evicted: dict[str, int] = field(default_factory=dict)
    unwritten_evictions: int = 0
    counters: dict[str, int] = field(default_factory=dict)
    engines_attached_ever: int = 0


class Exchange:
    """Hands snapshots from the loop's thread to HTTP's."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._snapshot = Snapshot("starting")
        self._version = 0
        self._wanted = False

    @property
    def is_wanted(self) -> bool:
        """Whether somebody waits for a snapshot."""
        return self._wanted

    def put(self, snapshot: Snapshot) -> None:
        """Publish; wakes who waits."""
        with self._changed:
            self._snapshot = snapshot
            self._version += 1
            self._wanted = False
            self._changed.notify_all()

    def get(self) -> Snapshot:
        """A snapshot made after this call began, or the last one if none comes within a second. Blocks."""
        with self._changed:
            before = self._version
            self._wanted = True
            self._changed.wait_for(lambda: self._version > before, FRESH_WITHIN_SECONDS)
            return self._snapshot
