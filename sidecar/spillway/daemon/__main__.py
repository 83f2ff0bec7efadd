"""`python -m spillway.daemon`: parse once, open the plane, turn the loop until SIGTERM. A bad config never ends the process."""

from __future__ import annotations

import os
import sys
import threading
import time
from datetime import UTC, datetime

import structlog

from spillway import _core
from spillway.client.refusal import read_refusal
from spillway.config import (
    CONFIG_ENV,
    FLUSH_SECONDS,
    HTTP_PORT,
    ConfigError,
    NvmeConfig,
    SidecarConfig,
    parse_sidecar_config,
)
from spillway.daemon.conditions import degraded, find_conditions
from spillway.daemon.heartbeat import TURN_SECONDS, Heartbeat
from spillway.daemon.http import Served, try_serve
from spillway.daemon.lookups import Lookups
from spillway.daemon.loop import Loop
from spillway.daemon.process import Overrides, cap_heap, max_records, root, set_log_level, stop_on_signals
from spillway.daemon.slots import has_free_slot
from spillway.daemon.snapshot import Exchange, Snapshot
from spillway.daemon.status import StatusBuilder
from spillway.daemon.steps import Steps
from spillway.status import SidecarCondition

log = structlog.get_logger()

# An engine's locks are looked at every 200 ms; its exit precedes our SIGTERM at a pod's end by 0.1 s or so.
DEATH_NOTICE_SECONDS = 0.5
LOCK_RETRY_SECONDS = 1.0
OVERRIDES_EVERY_SECONDS = 2.0
# What the daemon promises its supervisor for longer things than a turn. Opening walks the whole index, 4 GiB at most.
OPEN_SECONDS = 300.0
IDLE_SECONDS = 1.0


def main() -> None:
    """Run until SIGTERM."""
    set_log_level("Info")
    os.umask(0o077)  # the core sets the modes that engines need by fchmod
    stop = stop_on_signals()
    heartbeat = Heartbeat.from_environment()
    exchange = Exchange()
    try:
        config = parse_sidecar_config(os.environ.get(CONFIG_ENV, ""))
    except ConfigError as error:
        _idle(exchange, stop, degraded("ConfigInvalid", str(error)), Served(exchange), heartbeat)
        return
    set_log_level(config.log_level)
    cap_heap(config)
    status = StatusBuilder(config, datetime.now(UTC))
    served = Served(exchange, status.build, config.status_public_keys)
    problem = try_serve(config.http_port, served)
    fixed = [degraded("PortTaken", problem)] if problem else []
    while (plane := _open(config, exchange, stop, heartbeat)) is not None:
        Sidecar(config, plane, exchange, fixed, heartbeat).run(stop)


def _idle(
    exchange: Exchange, stop: threading.Event, why: SidecarCondition, served: Served, heartbeat: Heartbeat
) -> None:
    """Without a usable configuration: say so and stay, since ending would be a crash loop and touch the pod's readiness."""
    log.error("the daemon is idle", reason=why.reason, message=why.message)
    if problem := try_serve(HTTP_PORT, served):
        log.error("the daemon has no HTTP", reason=problem)
    exchange.put(Snapshot("idle", (why,)))
    while not stop.wait(IDLE_SECONDS):
        heartbeat.promise()


def _open(config: SidecarConfig, exchange: Exchange, stop: threading.Event, heartbeat: Heartbeat) -> _core.Plane | None:
    """The plane, as soon as it can be opened: a predecessor that is slow to end may hold it. None when stopped before."""
    said = ""
    while not stop.is_set():
        heartbeat.promise(OPEN_SECONDS)
        try:
            return _core.Plane.open(
                str(root()),
                config.dram.capacity_bytes,
                config.index_bytes,
                nvme_options(config.nvme) if config.nvme else None,
                lock_wait_seconds=LOCK_RETRY_SECONDS,
            )
        except _core.PlaneError as error:
            why = degraded("PlaneUnavailable", str(error))
            exchange.put(Snapshot("waiting", (why,)))
            if str(error) != said:
                said = str(error)
                log.warning("the plane cannot be opened yet", reason=said)
            stop.wait(LOCK_RETRY_SECONDS)
    return None


class Sidecar:
    """The open plane, its loop, and what others see of them."""

    def __init__(
        self,
        config: SidecarConfig,
        plane: _core.Plane,
        exchange: Exchange,
        fixed: list[SidecarCondition],
        heartbeat: Heartbeat,
    ) -> None:
        self._config, self._plane, self._exchange, self._fixed = config, plane, exchange, fixed
        self._heartbeat = heartbeat
        self._loop = Loop(plane, max_records(config))
        self._report = plane.report()
        self._steps = Steps()
        self._lookups = Lookups(root() / "index")
        self._overrides = Overrides(config)
        self._said: set[tuple[str, str]] = set()

    def run(self, stop: threading.Event) -> None:
        """Turn the loop until stopped, then end as fits: a replacement at once, a pod's end with a flush.

        Returns early when the plane should be opened again: this pod may have started while its predecessor, which is
        ending, still held the only slot of the disk.
        """
        log.info("the plane is open", adopted=self._report.adopted, bytes=self._report.arena_bytes)
        look_at = 0.0
        while not stop.is_set():
            self._heartbeat.promise()
            self._loop.turn()
            is_due = time.monotonic() >= look_at
            if not is_due and not self._exchange.is_wanted:
                continue
            stats = self._publish()
            if is_due:
                if stats.arena_poisoned:
                    # Only a new process can map a whole arena again; the supervisor starts one.
                    log.error("an engine truncated the arena; the daemon ends so that its successor makes a new one")
                    self._plane.close()
                    sys.exit(1)
                if self._slot_came_free():
                    log.info("a slot of the disk came free; the plane is opened again to take it")
                    self._plane.close()
                    return
                self._override(self._overrides.refresh())
                look_at = time.monotonic() + OVERRIDES_EVERY_SECONDS
        if not self._engine_lives():
            self._heartbeat.promise(FLUSH_SECONDS + TURN_SECONDS)
            self._loop.flush(FLUSH_SECONDS)
        self._heartbeat.promise()
        self._plane.close()

    def _override(self, config: SidecarConfig | None) -> None:
        if config is not None and config.nvme is not None:
            self._plane.set_nvme_deadline(config.nvme.deadline_seconds)

    def _slot_came_free(self) -> bool:
        nvme = self._config.nvme
        if nvme is None or self._report.nvme.reason != "no_free_slot":
            return False
        return has_free_slot(root() / "nvme", nvme.slots)

    def _engine_lives(self) -> bool:
        """Whether some engine is still attached: then this process is replaced, and its successor keeps everything."""
        end = time.monotonic() + DEATH_NOTICE_SECONDS
        while any(engine.alive for engine in self._plane.stats().engines):
            if time.monotonic() >= end:
                return True
            self._loop.turn(timeout_ms=50)
        return False

    def _publish(self) -> _core.Stats:
        """Give others a snapshot, say what is new in it, and return the stats that it holds."""
        stats = self._plane.stats()
        self._lookups.observe(stats.engines)
        refusal, stopped = read_refusal(root()), self._steps.stopped(stats)
        conditions = [*self._fixed, *find_conditions(self._config, self._report, stats, refusal, stopped)]
        for condition in conditions:
            if (condition.reason, condition.message) not in self._said:
                log.warning("the sidecar is degraded", reason=condition.reason, message=condition.message)
        self._said = {(condition.reason, condition.message) for condition in conditions}
        self._exchange.put(
            Snapshot(
                state="serving",
                conditions=tuple(conditions),
                stats=stats,
                report=self._report,
                evicted=dict(self._loop.evicted),
                unwritten_evictions=self._loop.unwritten_evictions,
                counters={name: self._lookups.total(name) for name in _core.COUNTER_NAMES},
                engines_attached_ever=self._loop.engines_attached_ever,
            )
        )
        return stats


def nvme_options(config: NvmeConfig) -> _core.NvmeOptions:
    """The core's view of the NVMe tier."""
    return _core.NvmeOptions(
        capacity_bytes=config.capacity_bytes,
        slots=config.slots,
        io_threads=config.io_threads,
        direct=config.direct.lower(),
        deadline_ms=round(config.deadline_seconds * 1000),
        reserve_percent=config.reserve_percent,
    )


if __name__ == "__main__":
    main()
