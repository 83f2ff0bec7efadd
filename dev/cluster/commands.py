"""Running other programs: one way, with errors that show what was run and what it said; and bounded waiting."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path


class ClusterError(RuntimeError):
    """Something that a person has to act on; the message says what and how."""


class CommandError(ClusterError):
    """A program that ended with an error."""

    def __init__(self, argv: Sequence[str | Path], code: int, output: str) -> None:
        tail = "\n".join(output.strip().splitlines()[-25:])
        super().__init__(f"`{' '.join(map(str, argv))}` ended with {code}:\n{tail}")
        self.code = code
        self.output = output


def run(
    *argv: str | Path,
    cwd: Path | None = None,
    environment: Mapping[str, str] | None = None,
    stdin: str | None = None,
    check: bool = True,
    timeout_seconds: float | None = None,
    with_stderr: bool = False,
) -> str:
    """Run a program to its end and return its stdout, followed by its stderr when `with_stderr`.

    `environment` is added to our own. Raises CommandError when it ends with an error and `check` is set,
    and always when `timeout_seconds` are over.
    """
    try:
        done = subprocess.run(
            [str(part) for part in argv],
            cwd=cwd,
            env={**os.environ, **(environment or {})},
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout_seconds,
        )
    except subprocess.TimeoutExpired as error:
        raise CommandError(argv, 124, f"not finished after {timeout_seconds} s") from error
    if check and done.returncode != 0:
        raise CommandError(argv, done.returncode, done.stderr or done.stdout)
    return done.stdout + done.stderr if with_stderr else done.stdout


def succeeds(*argv: str | Path, timeout_seconds: float = 10) -> bool:
    """Whether a program exists and ends without an error in time."""
    if shutil.which(str(argv[0])) is None:
        return False
    try:
        run(*argv, timeout_seconds=timeout_seconds)
    except CommandError:
        return False
    return True


def wait_until(what: str, condition: Callable[[], object], *, seconds: float, last_state: Callable[[], str]) -> None:
    """Poll `condition` every 0.1 s until it is truthy. Raises ClusterError with `last_state()` when `seconds` are over."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise ClusterError(f"waited {seconds:.0f} s for {what}; last state:\n{last_state()}")
        time.sleep(0.1)


def tail(path: Path, lines: int = 15) -> str:
    """The end of a log file, for an error message."""
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:]) if path.exists() else f"{path} is absent"
