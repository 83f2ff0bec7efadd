"""What a person should know of this sidecar, as conditions with stable reasons. Pure: facts in, conditions out."""

from __future__ import annotations

from collections.abc import Sequence

from spillway import _core
from spillway.config import SidecarConfig
from spillway.status import SidecarCondition

# The core's reasons for an NVMe tier that is off or slower than asked for.
NVME_REASONS = {
    "volume_too_small": "VolumeTooSmall",
    "not_writable": "NvmeNotWritable",
    "no_free_slot": "NoFreeSlot",
    "direct_unavailable": "DirectIoUnavailable",
    "read_only": "NvmeReadOnly",
    "absent": "NvmeAbsent",
    "cannot_preallocate": "NvmeCannotPreallocate",
    "invalid_config": "NvmeConfigInvalid",
    "symbolic_link": "NvmeSymbolicLink",
    "io_error": "NvmeIoError",
}

# What opening the store cost, though the tier is active: the reasons of the core's report.
NVME_LOSSES = {"reformatted": "NvmeReformatted", "table_damaged": "NvmeTableDamaged"}


def degraded(reason: str, message: str) -> SidecarCondition:
    """A condition of type Degraded."""
    return SidecarCondition(type="Degraded", status="True", reason=reason, message=message)


def find_conditions(
    config: SidecarConfig,
    report: _core.Report,
    stats: _core.Stats,
    refusal: str = "",
    stopped: Sequence[int] = (),
) -> list[SidecarCondition]:
    """Every fault that report and stats show; empty when all is well.

    refusal: why an engine goes without us, in its words. stopped: tags of engines that stand still inside a step.
    """
    found = [*_nvme(config, report.nvme, stats.nvme), *_arena(report, stats)]
    if refusal:
        found.append(degraded("EngineNeverAttached", f"the engine goes without Spillway: {refusal}"))
    if stopped:
        tags = ", ".join(map(str, stopped))
        found.append(
            degraded(
                "EngineStopped",
                f"engine {tags} stands still inside a step, and its neighbours had to wait for what was evicted: resume or end it",
            )
        )
    refused = [engine for engine in stats.engines if engine.state == _core.STATE_REFUSED]
    if refused:
        found.append(
            degraded("EngineRefused", "an engine's control file was refused; it runs cold until its container restarts")
        )
    return found


def _nvme(config: SidecarConfig, opened: _core.NvmeReport, now: _core.NvmeStats) -> list[SidecarCondition]:
    if config.nvme is None:
        return []
    if opened.state == _core.NVME_OFF:
        reason = NVME_REASONS.get(opened.reason, "NvmeOff")
        return [_storage(reason, f"{opened.message or opened.reason}; DRAM goes on without the NVMe tier")]
    if now.state == _core.NVME_BROKEN:
        return [_storage("NvmeBreakerOpen", f"{now.reason}; probing re-admits the tier")]
    if opened.reason == "table_damaged":
        return [degraded(NVME_LOSSES[opened.reason], opened.message)]
    if opened.reason == "reformatted":
        # The tier is whole, and stays so told until the daemon's next start: what was lost is no fault that goes on.
        return [
            SidecarCondition(
                type="StorageProvisioned", status="True", reason=NVME_LOSSES[opened.reason], message=opened.message
            )
        ]
    if not opened.direct and config.nvme.direct == "Auto":
        return [degraded("DirectIoUnavailable", f"reads and writes are buffered: {opened.message or opened.reason}")]
    return []


def _storage(reason: str, message: str) -> SidecarCondition:
    return SidecarCondition(type="StorageProvisioned", status="False", reason=reason, message=message)


def _arena(report: _core.Report, stats: _core.Stats) -> list[SidecarCondition]:
    found = []
    asked, got = report.arena_bytes_asked, report.arena_bytes
    # The core rounds down to 64 KiB, and did to an extent when it made arenas that are adopted now.
    rounding = _core.EXTENT_BYTES if report.adopted else _core.MIN_STRIDE_BYTES
    if asked - got >= rounding:
        found.append(degraded("ArenaSmallerThanAsked", f"the memory volume holds {got} of {asked} bytes"))
    if stats.fault_error:
        found.append(degraded("ArenaSmallerThanAsked", f"the arena cannot be backed by memory: {stats.fault_error}"))
    return found
