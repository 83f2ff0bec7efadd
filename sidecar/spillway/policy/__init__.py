"""Decisions of the sidecar, pure and replayable: events and room in, moves out.

No clock, no I/O, no import of the daemon or the core.
"""

from spillway.policy.order import EvictionOrder
from spillway.policy.planner import Account, Donation, Moves, Planner, Room
from spillway.policy.recency import Recency

__all__ = ["Account", "Donation", "EvictionOrder", "Moves", "Planner", "Recency", "Room"]
