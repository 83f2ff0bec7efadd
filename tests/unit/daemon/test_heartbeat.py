"""What the real daemon promises its supervisor: it renews while it serves, and a stopped one lets it pass."""

from __future__ import annotations

import mmap
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from spillway.daemon.heartbeat import HEARTBEAT_ENV, TURN_SECONDS, WORD_BYTES, Heartbeat, restarts_by_cause

from .test_daemon_process import Daemon, root, wait_for

__all__ = ["root"]


class Word:
    """The supervisor's end."""

    def __init__(self) -> None:
        self.descriptor = os.memfd_create("heartbeat", 0)
        os.ftruncate(self.descriptor, WORD_BYTES)
        self._memory = mmap.mmap(self.descriptor, WORD_BYTES)

    def promise_ns(self) -> int:
        return int.from_bytes(self._memory[:], "little")

    def left(self) -> float:
        """Seconds until the promise is broken."""
        return (self.promise_ns() - time.monotonic_ns()) / 1e9


@pytest.fixture
def word(monkeypatch: pytest.MonkeyPatch) -> Iterator[Word]:
    word = Word()
    monkeypatch.setenv(HEARTBEAT_ENV, str(word.descriptor))
    yield word
    os.close(word.descriptor)


def renewed(word: Word) -> bool:
    """The promise of a turn, made anew: opening promises more."""
    before = word.promise_ns()
    return before > 0 and word.left() <= TURN_SECONDS and bool(wait_for("another", lambda: word.promise_ns() != before))


@pytest.mark.parametrize("config", [None, "{}"], ids=["serving", "idle"])
def test_daemon_renews_its_promise_and_a_stopped_one_does_not(root: Path, word: Word, config: str | None) -> None:
    daemon = Daemon(root, config, pass_fds=(word.descriptor,))
    try:
        wait_for("a promise to be renewed", lambda: renewed(word), 30)
        daemon.process.send_signal(signal.SIGSTOP)
        os.waitpid(daemon.process.pid, os.WUNTRACED)
        before = word.promise_ns()
        assert 0 < word.left() <= TURN_SECONDS, "a supervisor knows of it within the bound"
        # Several turns of one that runs.
        time.sleep(0.5)
        assert word.promise_ns() == before
        daemon.process.send_signal(signal.SIGCONT)
        wait_for("the promise to be renewed", lambda: word.promise_ns() > before)
    finally:
        daemon.kill()


def test_a_daemon_without_a_supervisor_promises_nobody() -> None:
    Heartbeat(None).promise()


def test_predecessors_are_counted_by_cause() -> None:
    assert restarts_by_cause({"SPILLWAY_DAEMON_RESTARTS": "exit=1 signal=0 stalled=2"}) == {
        "exit": 1,
        "signal": 0,
        "stalled": 2,
        "not_started": 0,
    }
    assert sum(restarts_by_cause({}).values()) == 0, "every cause is there from the beginning"
