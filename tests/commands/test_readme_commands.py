"""The README's commands one after the other, and each interrupted once: a machine that works, and nothing left behind.

The tests are one story and run in order. They use whatever provider this machine gives, and refuse to start beside a cluster
of somebody's that they would take away.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dev.cluster import instance
from dev.cluster.embedded import machine
from dev.cluster.embedded.addresses import Addresses
from dev.cluster.embedded.paths import Paths
from dev.cluster.settings import PROJECT, Settings
from tests.e2e.kit.waiting import wait_for

pytestmark = pytest.mark.commands

DEMO_SECONDS = 1800
# Beside the demo's engine, on two cores that others use as well.
TESTS_SECONDS = 4500


def make(*arguments: str, seconds: float = DEMO_SECONDS) -> None:
    """Run make to its end; its output is shown as it comes. What takes too long ends with all that it started."""
    with subprocess.Popen(["make", *arguments], cwd=PROJECT, start_new_session=True) as process:
        try:
            code = process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGINT)
            process.wait(timeout=300)
            raise
    assert code == 0, f"make {' '.join(arguments)} ended with {code}"


def interrupt(target: str, once: str, again: str = "") -> None:
    """Start a target and press Ctrl-C when its output has `once`, and impatiently when it has `again` after that."""
    with subprocess.Popen(
        ["make", target],
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="")
            if once in line:
                os.killpg(process.pid, signal.SIGINT)
                break
        else:
            raise AssertionError(f"make {target} ended without saying {once!r}")
        for line in process.stdout:
            print(line, end="")
            if again and again in line:
                os.killpg(process.pid, signal.SIGINT)
        assert process.wait(timeout=300) != 0


def paths(of: instance.Instance) -> Paths:
    return Paths(Settings.from_environment().state(of))


def left(of: instance.Instance) -> dict[str, list[str]]:
    """What there is on this machine of an embedded cluster, by kind."""
    seen = machine.observe_instance(paths(of), Addresses(of))
    return {kind: entries for kind, entries in seen.items() if entries}


@pytest.fixture(scope="module", autouse=True)
def nothing_before() -> Iterator[machine.Machine]:
    before = machine.observe()
    for one in instance.ALL:
        assert not left(one), f"cluster {one.name} is up; it would be taken away"
    yield before
    wait_for("nothing to be left", lambda: not any(left(one) for one in instance.ALL), 60)
    assert not any(machine.observe().added_since(before).values())


def test_a_cluster_whose_machine_went_down_is_ended_before_the_next() -> None:
    cluster = (sys.executable, "-m", "dev.cluster")
    subprocess.run([*cluster, "up"], cwd=PROJECT, check=True)
    kubectl = (Settings.from_environment().tools / "kubectl", "--kubeconfig", paths(instance.E2E).kubeconfig)
    subprocess.run([*kubectl, "create", "configmap", "of-an-earlier-run"], check=True)
    for pid in machine.processes_of(paths(instance.E2E), Addresses(instance.E2E)):
        os.kill(pid, signal.SIGKILL)

    subprocess.run([*cluster, "up"], cwd=PROJECT, check=True)

    found = subprocess.run([*kubectl, "get", "configmap", "of-an-earlier-run"], check=False, capture_output=True)
    subprocess.run([*cluster, "down"], cwd=PROJECT, check=True)
    assert b"NotFound" in found.stderr
    assert not left(instance.E2E)


def test_a_demo_interrupted_while_its_engine_loads_is_taken_away() -> None:
    interrupt("demo", "waiting for the engine")
    assert left(instance.DEMO)
    make("demo-down")
    assert not left(instance.DEMO)


def test_demo_down_with_nothing_there_is_fine() -> None:
    make("demo-down")


def test_demo() -> None:
    make("demo")


def test_the_tests_leave_the_demo_as_it_is() -> None:
    before = left(instance.DEMO)
    make("test-e2e", seconds=TESTS_SECONDS)
    assert not left(instance.E2E)
    assert {kind: entries for kind, entries in left(instance.DEMO).items() if kind != "processes"} == {
        kind: entries for kind, entries in before.items() if kind != "processes"
    }


def test_tests_interrupted_end_their_own_cluster_only() -> None:
    interrupt("test-e2e", "tests/e2e/test_conditions.py::", again="ending pods ...")
    wait_for("the tests' cluster to be gone", lambda: not left(instance.E2E), 120)
    assert left(instance.DEMO)


def test_a_second_demo_after_the_tests() -> None:
    make("demo")


def test_demo_down_interrupted_and_again() -> None:
    interrupt("demo-down", "ending")
    make("demo-down")
    assert not left(instance.DEMO)
    assert not Path(instance.DEMO.folder).exists()
