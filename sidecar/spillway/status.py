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


class TierFigures(_Frozen):
    """One tier of this pod."""

    name: Literal["dram", "nvme"]
    capacity_bytes: int
    used_bytes: int
    chunks: int


class TokenCounts(_Frozen):
    """Prompt tokens since the pod's start. looked_up: of chunks that requests asked for, past what their engine had on the device.

    dram, nvme and other: of those, what loads brought, by tier; other is what no chunk of its own was loaded for, as
    what lies before an attention window.
    """

    looked_up: int
    dram: int
    nvme: int
    other: int


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
    """The NVMe tier. `rung` is how it reads and writes, `rung_refusals` why not in each better way; `direct` whether O_DIRECT was
    proved at open."""

    state: Literal["off", "scanning", "active", "broken"]
    reason: str
    message: str
    rung: str
    rung_refusals: dict[str, str] = {}
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
    tiers: tuple[TierFigures, ...]
    tokens: TokenCounts | None
    engines: tuple[EngineStatus, ...]
    engines_attached: int
    engines_attached_ever: int
    nvme: NvmeStatus | None
    conditions: tuple[SidecarCondition, ...]
    hop_bytes: dict[str, int]
    quarantined: dict[str, int]
