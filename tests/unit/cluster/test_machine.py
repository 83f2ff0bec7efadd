"""The comparison of a machine before and after a cluster."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tests.cluster.embedded.machine import Machine

EMPTY = Machine([], [], ["lo"], [], [], [], [], [], ["vm/panic_on_oom=0"])


def test_nothing_added_when_nothing_changed() -> None:
    assert not any(EMPTY.added_since(EMPTY).values())


def test_tells_what_is_new_by_kind() -> None:
    after = replace(EMPTY, links=["lo", "spillway0"], sysctls=["vm/panic_on_oom=1"])
    added = {kind: entries for kind, entries in after.added_since(EMPTY).items() if entries}
    assert added == {"links": ["spillway0"], "sysctls": ["vm/panic_on_oom=1"]}


def test_survives_saving(tmp_path: Path) -> None:
    EMPTY.save(tmp_path / "state" / "before.json")
    assert Machine.load(tmp_path / "state" / "before.json") == EMPTY
