"""Counters only grow, and count each thing once, whoever ends in between."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from spillway.daemon.lookups import FILE_NAME, Lookups


def engine(name: str, hits: int) -> SimpleNamespace:
    return SimpleNamespace(incarnation=name.encode(), counters={"hit_keys": hits, "fail_open": 0})


def test_engine_that_ends_keeps_its_share(tmp_path: Path) -> None:
    lookups = Lookups(tmp_path)
    lookups.observe([engine("a", 10), engine("b", 5)])
    lookups.observe([engine("a", 12)])
    assert lookups.total("hit_keys") == 17
    assert lookups.total("fail_open") == 0


def test_successor_goes_on_where_the_daemon_ended(tmp_path: Path) -> None:
    before = Lookups(tmp_path)
    before.observe([engine("a", 10), engine("b", 5), engine("c", 3)])
    before.observe([engine("a", 10), engine("b", 5)])

    successor = Lookups(tmp_path)
    assert successor.total("hit_keys") == 18
    # `b` ended while nobody looked, `a` went on, `d` is new.
    successor.observe([engine("a", 12), engine("d", 1)])
    assert successor.total("hit_keys") == 12 + 5 + 3 + 1


@pytest.mark.parametrize("text", ["", "[]", '{"last": 1, "ended": {}}', '{"ended": {}}'])
def test_damaged_memory_is_begun_anew(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE_NAME).write_text(text)
    lookups = Lookups(tmp_path)
    lookups.observe([engine("a", 10)])
    assert lookups.total("hit_keys") == 10
    assert Lookups(tmp_path).total("hit_keys") == 10


def test_folder_that_takes_nothing_hinders_nothing(tmp_path: Path) -> None:
    lookups = Lookups(tmp_path / "absent")
    lookups.observe([engine("a", 10)])
    assert lookups.total("hit_keys") == 10
