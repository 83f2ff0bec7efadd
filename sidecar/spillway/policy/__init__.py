"""Decisions of the sidecar, pure and replayable: events and room in, moves out.

No clock, no I/O, no import of the daemon; of the core only `UseOrder`, a data structure.
"""

from spillway.policy.order import EvictionOrder
from spillway.policy.planner import Account, Donation, Moves, Planner, Room
from spillway.policy.recency import BYTES_PER_RECORD, Recency

__all__ = ["BYTES_PER_RECORD", "Account", "Donation", "EvictionOrder", "Moves", "Planner", "Recency", "Room"]
