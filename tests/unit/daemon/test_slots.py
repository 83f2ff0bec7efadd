"""A slot is free if its own lock can be had, and nobody else's lock is ever asked."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest
from spillway.daemon.slots import has_free_slot


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    slot = tmp_path / "volume" / "slot-0"
    slot.mkdir(parents=True)
    (slot / "lock").touch()
    return slot.parent


def test_slot_is_free_until_somebody_holds_its_lock(folder: Path) -> None:
    assert has_free_slot(folder, 2)
    with (folder / "slot-0" / "lock").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert not has_free_slot(folder, 2)
    assert has_free_slot(folder, 2)


@pytest.mark.parametrize("place", ["slot-0", "slot-0/lock"])
def test_link_is_not_followed(folder: Path, tmp_path: Path, place: str) -> None:
    theirs = tmp_path / "theirs"
    (folder / place).rename(theirs)
    (folder / place).symlink_to(theirs)
    assert not has_free_slot(folder, 1)


def test_pipe_is_not_waited_for(folder: Path) -> None:
    (folder / "slot-0" / "lock").unlink()
    os.mkfifo(folder / "slot-0" / "lock")
    has_free_slot(folder, 1)
