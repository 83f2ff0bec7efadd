"""What GET /status of a sidecar answers: frozen models, the daemon's side of the operator's reader.

Figures count since the daemon's start unless a name says otherwise; absent is not zero.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


class SidecarCondition(_Frozen):
    """Something a person should see in the pool's condition of this type. `message` holds no figure that moves by itself."""

    type: Literal["StorageProvisioned", "Degraded"]
    status: Literal["True", "False"]
    reason: str
    message: str


class TierStatus(_Frozen):
    """One tier of this pod. hits and lookups are keys, counted by the engines when a request is looked up."""

    name: Literal["dram", "nvme"]
    capacity_bytes: int
    used_bytes: int
    chunks: int
    hits: int
    lookups: int


class EngineStatus(_Frozen):
    """One engine incarnation that is attached."""

    tag: int
    ranks: int
    groups: int
    ready: bool
    alive: bool
    leases: int
    tickets: int


class NvmeStatus(_Frozen):
    """The NVMe tier. `rung` is how it reads and writes; `direct` whether O_DIRECT was proved at open."""

    state: Literal["off", "scanning", "active", "broken"]
    reason: str
    message: str
    rung: str
    direct: bool
    adopted: bool
    slot_number: int


class DaemonStatus(_Frozen):
    """The daemon process. `restarts` is how many predecessors the supervisor has seen end in this container."""

    version: str
    restarts: int
    started_at: datetime


class SidecarStatus(_Frozen):
    """The whole answer."""

    pod: str
    pool: str
    revision: str
    daemon: DaemonStatus
    tiers: tuple[TierStatus, ...]
    engines: tuple[EngineStatus, ...]
    engines_attached: int
    engines_attached_ever: int
    nvme: NvmeStatus | None
    conditions: tuple[SidecarCondition, ...]
    hop_bytes: dict[str, int]
    quarantined: dict[str, int]
