"""Engines die without a word: their leases and tickets come back, and not a moment before all their processes are gone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from spillway import _core

from .pod import Pod, key_of

WORKSPACE = Path(__file__).parents[3]


@contextmanager
def engine_process(
    pod: Pod, roles: str, incarnation: bytes, leases: int = 0, key: str = "-"
) -> Iterator[tuple[Any, dict[str, Any]]]:
    command = [
        sys.executable,
        "-m",
        "tests.unit.core.engine_process",
        str(pod.root),
        incarnation.hex(),
        roles,
        str(leases),
        key,
    ]
    process = subprocess.Popen(command, cwd=WORKSPACE, stdout=subprocess.PIPE, text=True)
    stdout = process.stdout
    assert stdout is not None
    os.set_blocking(stdout.fileno(), False)
    try:
        line = pod.until(f"the {roles} process", lambda: process.poll() is None and stdout.readline(), 20)
        yield process, json.loads(line)
    finally:
        process.kill()
        process.wait()
        stdout.close()


def count_of(pod: Pod, name: str) -> int:
    return int(getattr(pod.plane.stats(), name))


def waited(pod: Pod, seconds: float, holds: Callable[[], bool]) -> None:
    """Turn for a while; the condition must hold all the time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pod.turn()
        assert holds(), pod.plane.stats()


def test_leases_and_tickets_of_a_killed_engine_come_back(pod: Pod) -> None:
    pod.store(pod.attach([[100_000]]), range(1))
    with engine_process(pod, "both", os.urandom(16), leases=3, key=key_of(0).hex()) as (process, said):
        assert said["ticket"] and len(said["leases"]) == 3
        pod.plane.evict_dram([pod.key16(0)])
        waited(pod, 0.5, lambda: count_of(pod, "recycling_slots") == 1)
        process.kill()
        process.wait()
        pod.until("the death", lambda: pod.seen(_core.EngineDead))
        assert pod.seen(_core.EngineDead)[0].leases >= 3
        pod.until("the pinned slot", lambda: count_of(pod, "recycling_slots") == 0)


def test_an_engine_lives_while_any_of_its_processes_does(pod: Pod) -> None:
    incarnation = os.urandom(16)
    with (
        engine_process(pod, "rank0", incarnation),
        engine_process(pod, "scheduler", incarnation, leases=2) as (scheduler, _said),
    ):
        scheduler.kill()
        scheduler.wait()
        waited(pod, 0.8, lambda: not pod.seen(_core.EngineDead) and count_of(pod, "leases_out") >= 2)
    pod.until("the death", lambda: pod.seen(_core.EngineDead))
    pod.until("the leases", lambda: count_of(pod, "leases_out") == 0)
    assert not list(pod.root.glob("run/ctl-*"))


def test_a_role_is_taken_once(pod: Pod) -> None:
    incarnation = os.urandom(16)
    with (
        engine_process(pod, "both", incarnation),
        pytest.raises(_core.AttachError, match="attached by another process"),
    ):
        _core.Attachment(str(pod.root), incarnation, 1, 1, -1)


def test_attaching_where_there_is_no_sidecar_says_so(tmp_path: Path) -> None:
    with pytest.raises(_core.SidecarAbsent, match="not mounted"):
        _core.Attachment(str(tmp_path), os.urandom(16), 1, 1, -1)


def test_another_abi_is_refused_readably(pod: Pod) -> None:
    incarnation = os.urandom(16)
    path = pod.root / f"run/ctl-{incarnation.hex()}"
    with engine_process(pod, "rank0", incarnation):
        data = bytearray(path.read_bytes())
    data[8:12] = (99).to_bytes(4, "little")
    other = os.urandom(16)
    data[16:32] = other
    (pod.root / f"run/ctl-{other.hex()}").write_bytes(data)
    pod.until("the refusal", lambda: any(event.reason == _core.REFUSED_ABI for event in pod.seen(_core.EngineRefused)))
    with pytest.raises(_core.AbiMismatch, match="ABI 99"):
        _core.Attachment(str(pod.root), other, 1, 1, 0)


def test_a_truncated_control_file_drops_its_engine_only(pod: Pod) -> None:
    good = pod.attach([[100_000]])
    pod.store(good, range(1))
    incarnation = os.urandom(16)
    with engine_process(pod, "rank0", incarnation):
        os.truncate(pod.root / f"run/ctl-{incarnation.hex()}", 0)
        pod.until(
            "the refusal", lambda: any(event.reason == _core.REFUSED_FAULT for event in pod.seen(_core.EngineRefused))
        )
        assert pod.lookup(good, range(1)) == bytes([_core.HIT])
