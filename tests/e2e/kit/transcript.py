"""What `kubectl get kvpool` and `kubectl describe` say at each step of the scenarios, held to `docs/transcript/<step>.txt`.

What differs from run to run (names that Kubernetes draws, ages, times, figures of the machine) is replaced by a word in angle
brackets. `SPILLWAY_UPDATE_TRANSCRIPT=1` writes the files instead, once the answer has settled.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from tests.e2e.kit.manifests import Manifest
from tests.e2e.kit.waiting import wait_for

FOLDER = Path(__file__).resolve().parents[3] / "docs" / "transcript"
UPDATE = "SPILLWAY_UPDATE_TRANSCRIPT"
# The operator reads each sidecar every 10 s and writes a figure that left zero, or moved by a lot, 15 s after the last.
SETTLED_SECONDS = 35.0
PATIENCE_SECONDS = 120.0

# The characters of which Kubernetes draws names.
_DRAWN = "[bcdfghjklmnpqrstvwxz2456789]"
_VOLATILE = (
    (r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b", "<uid>"),
    (rf"\b([a-z]+)-{_DRAWN}{{6,10}}-{_DRAWN}{{5}}\b", r"\1-<pod>"),
    (r"\b\d{4}-\d\d-\d\dT[\d:]+Z", "<time>"),
    (r"(Revision: +|\"revision\":\")[0-9a-f]{12}\b", r"\1<revision>"),
    (r"(Used: +)[1-9]\S*", r"\1<used>"),
    # A pool's user is derived from its uid.
    (r"\buid \d{10}\b", "uid <uid>"),
    (r"(Chunks: +)[1-9]\S*", r"\1<chunks>"),
    (r"((?:Dram|Nvme|Ratio): +)[01]\.\d\d\b", r"\1<ratio>"),
    (r"[\d.]+ [KMGT]iB are free", "<free> are free"),
)
# What the API server and its clients keep for themselves, and what the person wrote: the specification.
_DROPPED = re.compile(r"^(Labels|Annotations|API Version|Kind|Metadata|Spec):.*\n(?:[ ]+.*\n)*", re.MULTILINE)
_COLUMNS = {"DRAM": "<used>", "NVME": "<used>", "HIT": "<ratio>", "AGE": "<age>", "Age": "<age>"}


def normalise(text: str) -> str:
    """The text of `kubectl describe` with what differs from run to run replaced."""
    text = _DROPPED.sub("", text)
    for pattern, word in _VOLATILE:
        text = re.sub(pattern, word, text)
    head, found, events = text.partition("Events:\n")
    lines = (head + found).splitlines() + normalise_table(events, indent="  ")
    return "\n".join(line.rstrip() for line in lines).strip() + "\n"


def normalise_table(text: str, indent: str = "") -> list[str]:
    """A table of kubectl with its volatile cells replaced and its columns as wide as they then need to be."""
    lines = [line.removeprefix(indent) for line in text.splitlines() if line.strip(" -")]
    if not lines:
        return []
    starts = [0, *(match.end() for match in re.finditer(r" {2,}(?=\S)", lines[0].rstrip()))]
    rows = [[line[a:b].strip() for a, b in zip(starts, [*starts[1:], None], strict=True)] for line in lines]
    header = rows[0]
    for row in rows[1:]:
        for place, name in enumerate(header):
            if name in _COLUMNS and row[place] not in ("", "0"):
                row[place] = _COLUMNS[name]
    widths = [max(len(row[place]) for row in rows) for place in range(len(header))]
    return [
        indent + "   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]


class Transcript:
    """Asks with the kubectl that a person would use."""

    def __init__(self, kubectl: Path, kubeconfig: str) -> None:
        self._kubectl = str(kubectl)
        self._environment = {**os.environ, "KUBECONFIG": kubeconfig}

    def check(self, step: str, namespace: str, pool: str = "chat") -> None:
        """Wait until kubectl says of the pool what `docs/transcript/<step>.txt` has; the difference is shown on expiry."""

        def ask() -> str:
            table = "\n".join(normalise_table(self._run(get)))
            return f"$ {' '.join(get)}\n{table}\n\n$ {' '.join(tell)}\n{normalise(self._run(tell))}"

        get = ["kubectl", "-n", namespace, "get", "kvpool", pool]
        tell = ["kubectl", "-n", namespace, "describe", "kvpool", pool]
        self._check(step, ask)

    def check_pod(self, step: str, namespace: str, pod: str) -> None:
        """The same for what Spillway writes about a pod: annotations and Events."""
        command = ["kubectl", "-n", namespace, "describe", "pod", pod]
        self._check(step, lambda: f"$ {' '.join(command)}\n{_spillway_part(self._run(command))}")

    def check_refused(self, step: str, pool: Manifest) -> None:
        """What `kubectl apply` says of a pool that the API server refuses."""
        command = ["kubectl", "apply", "-f", "-"]
        self._check(step, lambda: f"$ kubectl apply -f pool.yaml\n{self._run(command, json.dumps(pool))}")

    def _check(self, step: str, ask: Callable[[], str]) -> None:
        path = FOLDER / f"{step}.txt"
        if os.environ.get(UPDATE):
            FOLDER.mkdir(exist_ok=True)
            path.write_text(_settled(ask))
            return
        expected = path.read_text()

        def matches() -> bool:
            found = ask()
            if found != expected:
                difference = difflib.unified_diff(
                    expected.splitlines(), found.splitlines(), path.name, "now", lineterm=""
                )
                raise AssertionError("\n" + "\n".join(difference))
            return True

        wait_for(f"kubectl to say what {path.name} has", matches, PATIENCE_SECONDS, every=1.0)

    def _run(self, command: list[str], given: str = "") -> str:
        result = subprocess.run(
            [self._kubectl, *command[1:]],
            env=self._environment,
            input=given,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        return result.stdout + result.stderr


def _settled(ask: Callable[[], str]) -> str:
    """The answer once it has stayed the same for a while."""
    seen, since = ask(), time.monotonic()
    end = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() - since < SETTLED_SECONDS:
        assert time.monotonic() < end, f"kubectl's answer did not settle in {PATIENCE_SECONDS:.0f} s"
        time.sleep(1)
        if (now := ask()) != seen:
            seen, since = now, time.monotonic()
    return seen


def _spillway_part(text: str) -> str:
    """Of a pod's description the annotations and Events that Spillway wrote."""
    annotations = re.findall(r"^(?:Annotations:)?\s+(spillway\.dev/(?:status|skipped): .*)$", text, re.MULTILINE)
    events = text.partition("Events:\n")[2].splitlines()
    ours = [*events[:1], *(event for event in events if " spillway-operator " in event)]
    return normalise("\n".join([*annotations, "Events:", *ours]) + "\n")
