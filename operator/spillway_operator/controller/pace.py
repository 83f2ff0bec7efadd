"""When a fast fact of the status is written: at once in a calm pool, ever more rarely while the pool changes without end.

A rollout of 500 pods changes counts, members and messages some thousand times; each of these changes would be a write to etcd and an
event to everybody who watches pools, the webhook's replicas included. So of changes that follow each other the first few are written at
once, then the pause doubles up to 5 minutes. A condition that turned waits a quarter of that, the first two of a burst not at all, and
what stands unchanged for a while is written before its time: the end of a rollout is seen at its end.

What others act on does not wait: see `status.decide_write`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

FREE_WRITES = 3
FREE_TURNS = 2
FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 300.0
# Of the pause: what a condition that turned waits at most, and how long a status stands before it is taken for the end of the changes.
TURN_SHARE = 0.25
SETTLED_SECONDS = 10.0
# No change for so long, and for two pauses, ends a burst: an engine loads its model for a minute or two between two steps of a rollout.
CALM_SECONDS = 180.0


@dataclass
class Burst:
    """Changes of one pool that follow each other. In memory: after a restart a pool counts as calm."""

    writes: int = 0
    turns: int = 0
    written_at: datetime | None = None
    changed_at: datetime | None = None
    wanted: object = None

    @property
    def pause_seconds(self) -> float:
        """How long the next write waits after the last one."""
        if self.writes < FREE_WRITES:
            return 0.0
        return min(FIRST_PAUSE_SECONDS * 2.0 ** min(self.writes - FREE_WRITES, 16), LONGEST_PAUSE_SECONDS)

    def see(self, wanted: object, now: datetime) -> None:
        """Take note of what the status should say; a change after a calm begins a new burst."""
        if wanted == self.wanted:
            return
        last = max((at for at in (self.changed_at, self.written_at) if at is not None), default=now)
        if now - last > timedelta(seconds=CALM_SECONDS + 2 * self.pause_seconds):
            self.writes = self.turns = 0
        self.wanted, self.changed_at = wanted, now

    def wait_seconds(self, now: datetime, *, turned: bool) -> float:
        """How long what was seen last waits from now; 0 is not at all. `turned`: a condition has another status."""
        if self.written_at is None or (turned and self.turns < FREE_TURNS):
            return 0.0
        pause_seconds = self.pause_seconds * (TURN_SHARE if turned else 1.0)
        due_at = self.written_at + timedelta(seconds=pause_seconds)
        if self.changed_at is not None:
            stands_seconds = max(SETTLED_SECONDS, self.pause_seconds * TURN_SHARE)
            due_at = min(due_at, self.changed_at + timedelta(seconds=stands_seconds))
        return max(0.0, (due_at - now).total_seconds())

    def rest_seconds(self, now: datetime) -> float:
        """How long a slow fact waits at least, so that a burst is not written in full by what comes beside it."""
        if self.written_at is None:
            return 0.0
        return max(0.0, self.pause_seconds - (now - self.written_at).total_seconds())

    def count(self, now: datetime, *, turned: bool) -> None:
        """A write was accepted."""
        self.writes += 1
        self.turns += turned
        self.written_at = now
