"""The slow facts of the status: tiers and hits, summed over a pool's sidecars, rounded, written rarely.

When they are written: together with any change of a condition or count; else after 5 minutes if a rounded figure
differs; else 15 s after the last time if a figure moved by a lot: a tier appeared or left, its capacity changed, it is
no longer empty or full of nothing, `used` moved by a tenth of the capacity or hit.ratio by 0.1. At rest no figure
moves and nothing is written. When the tiers were last written stands in their own observedAt, so an operator that starts
anew keeps the pace.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

from spillway_operator.api import HitStatus, PoolStatus, TierStatus
from spillway_operator.api.quantity import format_bytes, parse_bytes
from spillway_operator.api.status import TierName
from spillway_operator.controller.members import Observation, TierReport

SLOW_SECONDS = 300.0
LARGE_CHANGE_SECONDS = 15.0
LARGE_SHARE = 0.1
TIER_NAMES: tuple[TierName, ...] = ("dram", "nvme")


def build_tiers(observations: Iterable[Observation | None]) -> tuple[TierStatus, ...]:
    """Sum what the sidecars reported, tier by tier. A tier that nobody reported is absent, not zero."""
    seen = [observation for observation in observations if observation is not None]
    tiers = []
    for name in TIER_NAMES:
        parts = [(tier, o.observed_at) for o in seen for tier in o.report.tiers if tier.name == name]
        if parts:
            tiers.append(_sum_tier(name, [tier for tier, _ in parts], max(moment for _, moment in parts)))
    return tuple(tiers)


def _sum_tier(name: TierName, reports: Sequence[TierReport], observed_at: datetime) -> TierStatus:
    return TierStatus(
        name=name,
        capacity=format_bytes(sum(tier.capacity_bytes for tier in reports)),
        used=round_bytes(sum(tier.used_bytes for tier in reports)),
        chunks=round_count(sum(tier.chunks for tier in reports)),
        observed_at=observed_at,
    )


def build_hit(observations: Iterable[Observation | None]) -> HitStatus | None:
    """What was loaded of what was looked up, over all sidecars; None where nothing was looked up.

    A tier that no sidecar has is absent, not zero.
    """
    reports = [observation.report for observation in observations if observation is not None]
    tokens = [report.tokens for report in reports if report.tokens is not None]
    looked_up = sum(each.looked_up for each in tokens)
    if not looked_up:
        return None
    loaded: dict[str, int] = {
        "dram": sum(each.dram for each in tokens),
        "nvme": sum(each.nvme for each in tokens),
        "other": sum(each.other for each in tokens),
    }
    known = {tier.name for report in reports for tier in report.tiers}
    shares = {name: _share(count, looked_up) for name, count in loaded.items() if count or name in known}
    return HitStatus(ratio=_share(sum(loaded.values()), looked_up), **shares)


def _share(part: int, whole: int) -> str:
    return f"{min(part / whole, 1.0):.2f}"


def round_count(count: int) -> int:
    """Three significant digits."""
    return int(float(f"{count:.2e}"))


def round_bytes(size_bytes: int) -> str:
    """A quantity of three significant digits with a binary suffix: 1234567890 -> "1.15Gi"."""
    scaled, suffix = float(size_bytes), ""
    for following in ("Ki", "Mi", "Gi", "Ti", "Pi"):
        if scaled < 1024:
            break
        scaled, suffix = scaled / 1024, following
    text = f"{float(f'{scaled:.2e}'):.2f}".rstrip("0").rstrip(".") if suffix else str(size_bytes)
    return f"{text}{suffix}"


def seconds_until_write(written: PoolStatus, current: PoolStatus, now: datetime) -> float | None:
    """How long the write of the slow facts of `current` should wait: 0 is now, None is never, as nothing differs."""
    if not current.tiers or (_figures(written.tiers), written.hit) == (_figures(current.tiers), current.hit):
        return None
    moments = [tier.observed_at for tier in written.tiers if tier.observed_at is not None]
    if not moments:
        return 0.0
    pause_seconds = LARGE_CHANGE_SECONDS if _moved_a_lot(written, current) else SLOW_SECONDS
    return max(0.0, pause_seconds - (now - max(moments)).total_seconds())


def _figures(tiers: Sequence[TierStatus]) -> list[TierStatus]:
    return [tier.model_copy(update={"observed_at": None}) for tier in sorted(tiers, key=lambda tier: tier.name)]


def _moved_a_lot(written: PoolStatus, current: PoolStatus) -> bool:
    before = {tier.name: tier for tier in written.tiers}
    if set(before) != {tier.name for tier in current.tiers} or _hit_moved_a_lot(written.hit, current.hit):
        return True
    return any(_tier_moved_a_lot(before[tier.name], tier) for tier in current.tiers)


def _hit_moved_a_lot(old: HitStatus | None, new: HitStatus | None) -> bool:
    if old is None or new is None:
        return old is not new
    return abs(float(new.ratio) - float(old.ratio)) >= LARGE_SHARE


def _tier_moved_a_lot(old: TierStatus, new: TierStatus) -> bool:
    if old.capacity != new.capacity or bool(old.chunks) != bool(new.chunks):
        return True
    capacity_bytes = parse_bytes(new.capacity or "0")
    moved_bytes = abs(parse_bytes(new.used or "0") - parse_bytes(old.used or "0"))
    return moved_bytes >= capacity_bytes * LARGE_SHARE > 0
