"""What the process sets up for itself: logs, heap limit, signals, the configuration and its live overrides."""

from __future__ import annotations

import logging
import os
import resource
import signal
import threading
from pathlib import Path

import structlog

from spillway.config import (
    LIVE_OVERRIDES_FILE,
    ConfigError,
    LogLevel,
    SidecarConfig,
    parse_live_overrides,
    policy_bytes,
)
from spillway.policy import BYTES_PER_RECORD

log = structlog.get_logger()

ROOT_ENV = "SPILLWAY_ROOT"
DEFAULT_ROOT = "/spillway"


def root() -> Path:
    """The folder with the volumes."""
    return Path(os.environ.get(ROOT_ENV, DEFAULT_ROOT))


def set_log_level(level: LogLevel) -> None:
    """JSON lines on stderr from this level on."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
    )


def cap_heap(config: SidecarConfig) -> None:
    """Bound private memory: after a container restart the arena's charge stays with the pod, so the cgroup no longer does.

    The limit does not count shared mappings, of which arena and index are two.
    """
    limit = config.heap_bytes
    _soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if hard == resource.RLIM_INFINITY or hard > limit:
        resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))


def max_records(config: SidecarConfig) -> int:
    """How much the planner may know, a record for each tier that a chunk is in."""
    return policy_bytes(config.heap_bytes) // BYTES_PER_RECORD


def stop_on_signals() -> threading.Event:
    """Set by SIGTERM and SIGINT."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _signal, _frame: stop.set())
    return stop


class Overrides:
    """The optional ConfigMap of the pool, looked at again when the file changes. A bad one is refused and said once."""

    def __init__(self, config: SidecarConfig) -> None:
        self._config = config
        self._file = root() / "config" / LIVE_OVERRIDES_FILE
        self._seen: tuple[int, int] | None = None

    def refresh(self) -> SidecarConfig | None:
        """The configuration as overridden, its log level applied, if the file changed since the last call."""
        try:
            found = self._file.stat()
        except OSError:
            return None
        mark = (found.st_mtime_ns, found.st_ino)
        if mark == self._seen:
            return None
        self._seen = mark
        try:
            overrides = parse_live_overrides(self._file.read_text())
        except (ConfigError, OSError) as error:
            log.warning("live overrides are refused", reason=str(error))
            return None
        config = self._config.with_overrides(overrides)
        set_log_level(config.log_level)
        return config
