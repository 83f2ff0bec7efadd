"""Run the parts of the test suite in order and say how long each took.

`python tools/test_parts.py [part ...]`; without names all parts run. A part that fails does not stop the ones after it,
so one run tells everything; the exit status is 1 when any failed. The last line sums up every runner.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REPORTS = ROOT / "build" / "test-reports"
# There while a cluster is up that `make test` brought up: a killed run's is ended by the next.
MADE_BY_TESTS = REPORTS / "cluster-is-ours"
CARGO_RESULT = re.compile(r"^test result: \w+\. (\d+) passed; (\d+) failed; (\d+) ignored", re.M)


@dataclass
class Outcome:
    """What one part reported. `failed` counts errors too; a runner that died without a report counts as one failure."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0


def run_command(*argv: str) -> Outcome:
    code = subprocess.run(argv, cwd=ROOT, check=False).returncode
    return Outcome(passed=int(code == 0), failed=int(code != 0))


def run_rust() -> Outcome:
    """All Rust tests: with the crash points, with swapped chunks, and the two protocols under loom (a build of its own)."""
    engine = ("-p", "spillway_engine")
    runs = [
        run_cargo("--workspace", "--features", "spillway_engine/crash-points"),
        run_cargo(*engine, "--features", "swap-chunks", "--test", "swap"),
        run_cargo(
            *engine, "--test", "loom", env={"RUSTFLAGS": "--cfg loom", "CARGO_TARGET_DIR": "sidecar/core/target/loom"}
        ),
    ]
    return Outcome(*(sum(getattr(run, field) for run in runs) for field in ("passed", "failed", "skipped")))


def run_cargo(*arguments: str, env: Mapping[str, str] | None = None) -> Outcome:
    """Run some Rust tests, their output shown as it comes and counted from cargo's own result lines."""
    argv = ["cargo", "test", "--manifest-path", "sidecar/core/Cargo.toml", "--locked", "--release", *arguments]
    process = subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, text=True, env={**os.environ, **(env or {})})
    assert process.stdout is not None
    lines: list[str] = []
    for line in process.stdout:
        if not line.rstrip().endswith("... ok"):
            print(line, end="", flush=True)
        lines.append(line)
    code = process.wait()
    results = [tuple(map(int, found)) for found in CARGO_RESULT.findall("".join(lines))]
    outcome = Outcome(sum(r[0] for r in results), sum(r[1] for r in results), sum(r[2] for r in results))
    if code != 0 and outcome.failed == 0:
        outcome.failed = 1
    return outcome


def run_pytest(name: str, *arguments: str, python: str | None = None) -> Outcome:
    """Run pytest and count from its own report. A missing report means the runner died: one failure."""
    REPORTS.mkdir(parents=True, exist_ok=True)
    report = REPORTS / f"{name}.xml"
    report.unlink(missing_ok=True)
    argv = [python or sys.executable, "-m", "pytest", f"--junitxml={report}", *arguments]
    code = subprocess.run(argv, cwd=ROOT, check=False).returncode
    if not report.exists():
        return Outcome(failed=1)
    outcome = Outcome()
    for suite in ET.parse(report).getroot().iter("testsuite"):
        bad = int(suite.get("failures", 0)) + int(suite.get("errors", 0))
        skipped = int(suite.get("skipped", 0))
        outcome.failed += bad
        outcome.skipped += skipped
        outcome.passed += int(suite.get("tests", 0)) - bad - skipped
    if code != 0 and outcome.failed == 0:
        outcome.failed = 1
    return outcome


def run_engine() -> Outcome:
    """The in-process engine tests: pytest runs in the project's environment and starts engines in vLLM's own."""
    prepared = run_command("bash", "tests/vllm/setup.sh")
    return run_pytest("engine", "tests/vllm", "-q") if prepared.failed == 0 else prepared


def run_e2e(name: str = "e2e", marked: str = "cluster and not long") -> Outcome:
    """A real Kubernetes of the tests' own with Spillway installed; one that was up before stays up, but for what a test
    run left that was killed."""
    was_up = subprocess.run([sys.executable, "-m", "dev.cluster", "status"], cwd=ROOT, check=False).returncode == 0
    ends_it = not was_up or MADE_BY_TESTS.exists()
    if ends_it:
        REPORTS.mkdir(parents=True, exist_ok=True)
        MADE_BY_TESTS.touch()
    try:
        for step in ("up", "images"):
            prepared = run_command(sys.executable, "-m", "dev.cluster", step)
            if prepared.failed:
                return prepared
        return run_pytest(name, "tests/e2e", "tests/unit", "-m", marked, "-v", "-s", "--durations=12")
    finally:
        if ends_it and not os.environ.get("SPILLWAY_KEEP_CLUSTER"):
            end_cluster()


def end_cluster() -> None:
    """End the tests' cluster, whoever presses Ctrl-C again meanwhile: it takes seconds, and half of it would stay otherwise."""
    before = signal.signal(signal.SIGINT, lambda *_: print("ending the cluster; a few seconds more", flush=True))
    try:
        # In a session of its own, where no Ctrl-C reaches it.
        argv = [sys.executable, "-m", "dev.cluster", "down"]
        code = subprocess.run(argv, cwd=ROOT, check=False, start_new_session=True).returncode
        if code == 0:
            MADE_BY_TESTS.unlink(missing_ok=True)
    finally:
        signal.signal(signal.SIGINT, before)


PARTS: dict[str, Callable[[], Outcome]] = {
    "lint": lambda: run_command("bash", "tools/lint.sh"),
    "rust": run_rust,
    "unit": lambda: run_pytest("unit", "tests/unit", "-q", "-m", "not cluster and not engine"),
    "engine": run_engine,
    "e2e": run_e2e,
}
# What takes long and rarely breaks: run by name only.
BY_NAME: dict[str, Callable[[], Outcome]] = {
    "long": lambda: run_e2e("long", "cluster and long"),
    "commands": lambda: run_pytest("commands", "tests/commands", "-m", "commands", "-v", "-s"),
}


def main(names: list[str]) -> int:
    known = {**PARTS, **BY_NAME}
    unknown = [name for name in names if name not in known]
    if unknown:
        print(f"unknown part {unknown[0]!r}; the parts are: {', '.join(known)}", file=sys.stderr)
        return 2
    outcomes: dict[str, tuple[Outcome, float]] = {}
    for name in names or PARTS:
        print(f"\n=== {name}", flush=True)
        started = time.monotonic()
        outcomes[name] = (known[name](), time.monotonic() - started)
    print(f"\n{'part':<8} {'seconds':>8} {'passed':>7} {'failed':>7} {'skipped':>8}")
    for name, (outcome, seconds) in outcomes.items():
        print(f"{name:<8} {seconds:>8.0f} {outcome.passed:>7} {outcome.failed:>7} {outcome.skipped:>8}")
    total = Outcome(
        sum(o.passed for o, _ in outcomes.values()),
        sum(o.failed for o, _ in outcomes.values()),
        sum(o.skipped for o, _ in outcomes.values()),
    )
    print(f"{total.passed} passed, {total.failed} failed, {total.skipped} skipped")
    return 1 if total.failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
