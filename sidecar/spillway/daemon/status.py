"""A snapshot as the answer of GET /status."""

from __future__ import annotations

import os
from datetime import datetime
from typing import Final, Literal

from spillway import _core
from spillway.config import SidecarConfig
from spillway.daemon.heartbeat import restarts_by_cause
from spillway.daemon.snapshot import Snapshot
from spillway.status import DaemonStatus, EngineStatus, NvmeStatus, SidecarStatus, TierFigures, TokenCounts

POD_NAME_ENV: Final = "POD_NAME"

NvmeState = Literal["off", "scanning", "active", "broken"]
_NVME_STATES: Final[dict[int, NvmeState]] = {
    _core.NVME_OFF: "off",
    _core.NVME_SCANNING: "scanning",
    _core.NVME_ACTIVE: "active",
    _core.NVME_BROKEN: "broken",
}


class StatusBuilder:
    """Knows what does not change during the daemon's life."""

    def __init__(self, config: SidecarConfig, started_at: datetime) -> None:
        self._config = config
        self._daemon = DaemonStatus(
            version=_core.__version__, restarts=sum(restarts_by_cause().values()), started_at=started_at
        )

    def build(self, seen: Snapshot) -> SidecarStatus:
        """The answer; tiers, engines and nvme are empty before the plane is open."""
        engines = _engines(seen)
        return SidecarStatus(
            pod=os.environ.get(POD_NAME_ENV, ""),
            pool=self._config.pool.name,
            revision=self._config.revision,
            daemon=self._daemon,
            tiers=self._tiers(seen.stats) if seen.stats else (),
            tokens=_tokens(seen) if seen.stats else None,
            engines=engines,
            engines_attached=sum(engine.alive for engine in engines),
            engines_attached_ever=seen.engines_attached_ever,
            nvme=_nvme(seen.stats, seen.report) if seen.stats and seen.report and self._config.nvme else None,
            conditions=seen.conditions,
            hop_bytes=seen.stats.hop_bytes if seen.stats else {},
            quarantined=seen.stats.quarantined if seen.stats else {},
        )

    def _tiers(self, stats: _core.Stats) -> tuple[TierFigures, ...]:
        """A tier that is off is absent."""
        found = [_tier("dram", stats)]
        if self._config.nvme is not None and stats.nvme.state != _core.NVME_OFF:
            found.append(_tier("nvme", stats))
        return tuple(found)


def _tokens(seen: Snapshot) -> TokenCounts:
    return TokenCounts(
        looked_up=seen.counters["looked_up_tokens"],
        dram=seen.counters["loaded_dram_tokens"],
        nvme=seen.counters["loaded_nvme_tokens"],
        other=seen.counters["loaded_other_tokens"],
    )


def _tier(name: Literal["dram", "nvme"], stats: _core.Stats) -> TierFigures:
    figures = stats.tiers[name]
    return TierFigures(
        name=name,
        capacity_bytes=figures.capacity_bytes,
        used_bytes=figures.bytes,
        chunks=figures.chunks,
    )


def _engines(seen: Snapshot) -> tuple[EngineStatus, ...]:
    return tuple(
        EngineStatus.model_validate({name: getattr(engine, name) for name in EngineStatus.model_fields})
        for engine in (seen.stats.engines if seen.stats else ())
    )


def _nvme(stats: _core.Stats, report: _core.Report) -> NvmeStatus:
    now, opened = stats.nvme, report.nvme
    return NvmeStatus(
        state=_NVME_STATES[now.state],
        reason=now.reason or opened.reason,
        message=opened.message,
        rung=now.rung,
        rung_refusals=now.rung_refusals,
        direct=now.direct,
        adopted=opened.adopted,
        slot_number=opened.slot_number,
    )
