"""`python -m spillway.daemon`: parse once, open the plane, turn the loop until SIGTERM. A bad config never ends the process."""

from __future__ import annotations

import os
import signal
import threading

import structlog

from spillway import _core
from spillway.config import (
    CONFIG_ENV,
    FLUSH_SECONDS,
    HTTP_PORT,
    ConfigError,
    NvmeConfig,
    SidecarConfig,
    parse_sidecar_config,
)
from spillway.daemon.http import State, try_serve
from spillway.daemon.loop import Loop

log = structlog.get_logger()


def main() -> None:
    structlog.configure(processors=[structlog.processors.add_log_level, structlog.processors.JSONRenderer()])
    os.umask(0o077)  # the core sets the modes that engines need by fchmod
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda _signal, _frame: stop.set())
    state: State = {"state": "starting", "conditions": []}
    try:
        config = parse_sidecar_config(os.environ.get(CONFIG_ENV, ""))
        port = config.http_port
    except ConfigError as error:
        config, port = None, HTTP_PORT
        _report(state, "ConfigInvalid", str(error))
    if problem := try_serve(port, state):
        _report(state, "PortTaken", problem)
    if config is None:
        stop.wait()
        return
    _serve(config, state, stop)


def _serve(config: SidecarConfig, state: State, stop: threading.Event) -> None:
    try:
        plane = _core.Plane.open(
            os.environ.get("SPILLWAY_ROOT", "/spillway"),
            config.dram.capacity_bytes,
            config.index_bytes,
            nvme_options(config.nvme) if config.nvme else None,
        )
    except _core.PlaneError as error:
        _report(state, "PlaneUnavailable", str(error))
        stop.wait()
        return
    report = plane.report()
    if config.nvme and report["nvme"]["state"] == _core.NVME_OFF:
        _report(state, "NvmeOff", f"{report['nvme']['reason']}: {report['nvme']['message']}")
    state["state"] = "serving"
    log.info("plane opened", adopted=report["adopted"], bytes=report["arena_bytes"])
    loop = Loop(plane)
    while not stop.is_set():
        loop.turn()
    # An engine that still lives means that this process is replaced: its successor keeps everything.
    if not any(engine["alive"] for engine in plane.stats()["engines"]):
        plane.flush(FLUSH_SECONDS)
    plane.close()


def nvme_options(config: NvmeConfig) -> _core.NvmeOptions:
    return _core.NvmeOptions(
        capacity_bytes=config.capacity_bytes,
        subdir=config.subdir,
        slots=config.slots,
        io_threads=config.io_threads,
        direct=config.direct.lower(),
        deadline_ms=round(config.deadline_seconds * 1000),
        reserve_percent=config.reserve_percent,
    )


def _report(state: State, reason: str, message: str) -> None:
    state["conditions"].append({"type": "Degraded", "status": "True", "reason": reason, "message": message})
    if state["state"] == "starting":
        state["state"] = "degraded"
    log.error("the daemon is degraded", reason=reason, message=message)


main()
