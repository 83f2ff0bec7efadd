"""Decisions of the sidecar, pure and replayable: events in, keys out.

No clock, no I/O, no import of the daemon or the core.
"""

from spillway.policy.recency import Recency

__all__ = ["Recency"]
