"""The comparison of a machine before and after a cluster."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from dev.cluster.embedded import machine
from dev.cluster.embedded.addresses import Addresses
from dev.cluster.embedded.machine import Machine
from dev.cluster.embedded.paths import Paths
from dev.cluster.instance import Instance

EMPTY = Machine(["/var/lib/cni"], ["vm/panic_on_oom=0"])


def test_nothing_added_when_nothing_changed() -> None:
    assert not any(EMPTY.added_since(EMPTY).values())


def test_tells_what_is_new_by_kind() -> None:
    after = replace(EMPTY, folders=["/var/lib/cni", "/opt/cni"], sysctls=["vm/panic_on_oom=1"])
    added = {kind: entries for kind, entries in after.added_since(EMPTY).items() if entries}
    assert added == {"folders": ["/opt/cni"], "sysctls": ["vm/panic_on_oom=1"]}


def test_survives_saving(tmp_path: Path) -> None:
    EMPTY.save(tmp_path / "state" / "before.json")
    assert Machine.load(tmp_path / "state" / "before.json") == EMPTY


@pytest.mark.parametrize(("content", "stays"), [("", False), ("somebody's", True)])
def test_new_folder_goes_unless_it_holds_something(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str, stays: bool
) -> None:
    """buildah leaves an empty lock file where it looks for networks."""
    folder = tmp_path / "cni"
    folder.mkdir()
    (folder / "cni.lock").write_text(content)
    monkeypatch.setattr(machine, "_FOLDERS", (folder,))
    machine.restore(Machine([], []))
    assert folder.exists() is stays


def test_a_machine_without_network_programs_has_nothing_of_a_cluster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`make demo-down` before anything was ever installed."""
    monkeypatch.setenv("PATH", str(tmp_path))
    seen = machine.observe_instance(Paths(tmp_path), Addresses(Instance("nobodys", 9, tmp_path / "none")))
    assert {kind: seen[kind] for kind in ("mounts", "links", "rules")} == {"mounts": [], "links": [], "rules": []}
