"""Long-running host processes: started once, recorded with what identifies them, ended only when they still are those.

A pid alone may have been reused, so a record also holds the start time of the process.
"""

from __future__ import annotations

import json
import os
import signal
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from dev.cluster.commands import ClusterError, tail, wait_until
from dev.cluster.embedded.paths import Paths

_END_SECONDS: Final = 15.0
# Fields of /proc/<pid>/stat after the name, counted from the state.
_STATE, _START_TIME = 0, 19


@dataclass(frozen=True)
class Record:
    """A process as the kernel knew it when it was started. `start_ticks` counts since boot."""

    pid: int
    start_ticks: int


def _look(pid: int) -> Record | None:
    """The living process of this pid; None for an absent one and for a zombie, which only waits for its parent."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text.rsplit(")", 1)[1].split()
    return None if fields[_STATE] in "ZX" else Record(pid, int(fields[_START_TIME]))


class Processes:
    """The processes of one cluster, by name."""

    def __init__(self, paths: Paths) -> None:
        self._paths = paths

    def is_running(self, name: str) -> bool:
        record = self._recorded(name)
        return record is not None and _look(record.pid) == record

    def any_running(self) -> bool:
        return any(self.is_running(path.stem) for path in self._paths.processes.glob("*.json"))

    def start(self, name: str, *argv: str | Path) -> None:
        """Start a process in a session of its own, its output in a log, unless the recorded one still runs."""
        if self.is_running(name):
            return
        self._paths.logs.mkdir(parents=True, exist_ok=True)
        self._paths.processes.mkdir(parents=True, exist_ok=True)
        environment = {**os.environ, "PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"}
        output = (os.POSIX_SPAWN_OPEN, 1, str(self.log(name)), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        actions = [(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0), output, (os.POSIX_SPAWN_DUP2, 1, 2)]
        pid = os.posix_spawnp(argv[0], [str(part) for part in argv], environment, file_actions=actions, setsid=True)
        seen = _look(pid)
        if seen is None:
            raise ClusterError(f"{name} ended at once:\n{tail(self.log(name))}")
        unfinished = self._file(name).with_suffix(".tmp")
        unfinished.write_text(json.dumps(asdict(seen)))
        unfinished.rename(self._file(name))

    def check(self, name: str) -> None:
        """Raise ClusterError with the end of its log when a started process is no longer there."""
        if not self.is_running(name):
            raise ClusterError(f"{name} ended:\n{tail(self.log(name))}")

    def stop(self, *names: str) -> None:
        """End the named processes together: ask, wait, then kill."""
        running = {name: record for name in names if (record := self._recorded(name)) and _look(record.pid) == record}
        for record in running.values():
            _signal(record, signal.SIGTERM)
        for name, record in running.items():
            try:
                wait_until(
                    f"{name} to end",
                    lambda record=record: _look(record.pid) != record,  # type: ignore[misc]
                    seconds=_END_SECONDS,
                    last_state=lambda name=name: tail(self.log(name)),  # type: ignore[misc]
                )
            except ClusterError:
                _signal(record, signal.SIGKILL)
        for name in names:
            self._file(name).unlink(missing_ok=True)

    def log(self, name: str) -> Path:
        return self._paths.logs / f"{name}.log"

    def _file(self, name: str) -> Path:
        return self._paths.processes / f"{name}.json"

    def _recorded(self, name: str) -> Record | None:
        path = self._file(name)
        return Record(**json.loads(path.read_text())) if path.exists() else None


def _signal(record: Record, number: signal.Signals) -> None:
    """Signal a process through a pidfd checked against the record, so that a reused pid is never hit."""
    try:
        descriptor = os.pidfd_open(record.pid)
    except ProcessLookupError:
        return
    try:
        if _look(record.pid) == record:
            signal.pidfd_send_signal(descriptor, number)
    except ProcessLookupError:
        return
    finally:
        os.close(descriptor)
