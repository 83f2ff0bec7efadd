"""Only the process that was started is ever signalled."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from dev.cluster.commands import ClusterError, wait_until
from dev.cluster.embedded.paths import Paths
from dev.cluster.embedded.processes import Processes


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return Paths(tmp_path)


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "60"]) as process:
        yield process
        process.kill()


def test_starts_once_and_stops(paths: Paths) -> None:
    processes = Processes(paths)
    processes.start("one", "sleep", "60")
    record = (paths.processes / "one.json").read_text()
    processes.start("one", "sleep", "60")
    assert (paths.processes / "one.json").read_text() == record
    processes.stop("one")
    assert not processes.is_running("one")
    assert not (paths.processes / "one.json").exists()


def test_spares_a_process_that_reused_the_pid(paths: Paths, sleeper: subprocess.Popen[bytes]) -> None:
    paths.processes.mkdir(parents=True)
    reused = {"pid": sleeper.pid, "start_ticks": 1}
    (paths.processes / "one.json").write_text(json.dumps(reused))
    processes = Processes(paths)
    assert not processes.is_running("one")
    processes.stop("one")
    assert sleeper.poll() is None


def test_shows_the_log_of_what_ended(paths: Paths) -> None:
    processes = Processes(paths)
    processes.start("one", "sh", "-c", "echo no such option; sleep 0.2")
    wait_until("it to end", lambda: not processes.is_running("one"), seconds=10, last_state=lambda: "running")
    with pytest.raises(ClusterError, match="no such option"):
        processes.check("one")
