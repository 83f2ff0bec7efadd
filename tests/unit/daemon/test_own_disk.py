"""The pool's folder on a node's disk goes to the sidecar's user: with one right, on the right disk, without following a link."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

UID = 1000
PREPARED_GROUP = 65532
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="changes owners")

# Gives up every right but CAP_CHOWN, as the container has it, then runs own_disk.
DROPPED = (
    *("setpriv", "--bounding-set", "-all,+chown", "--inh-caps", "-all,+chown", "--no-new-privs"),
    *(sys.executable, "-m", "spillway.daemon.own_disk"),
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """As the kubelet makes it below a prepared path."""
    path = tmp_path / "mnt"
    path.mkdir()
    os.chown(path, 0, PREPARED_GROUP)
    path.chmod(0o2755)
    folder = path / "team-a" / "uid"
    folder.mkdir(parents=True)
    return folder


def run(folder: Path, uid: int = UID, kind: str = "folder") -> str:
    ended = subprocess.run([*DROPPED, str(folder), str(uid), str(uid), kind], capture_output=True, text=True)
    assert ended.returncode == 0, "an init container that fails keeps the engine from starting"
    return ended.stderr


def owner(path: Path) -> tuple[int, str]:
    found = path.lstat()
    return found.st_uid, oct(found.st_mode & 0o7777)


@needs_root
def test_a_new_folder_becomes_the_sidecars(folder: Path) -> None:
    assert run(folder) == ""
    assert owner(folder) == (UID, "0o700")
    assert owner(folder.parent) == (0, "0o2755"), "nothing above it does"


@needs_root
def test_a_folder_on_an_unmounted_disk_is_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "team-a" / "uid"
    folder.mkdir(parents=True)
    assert "is its disk mounted?" in run(folder)
    assert owner(folder) == (0, "0o755")


@needs_root
def test_a_volume_of_the_pods_own_needs_no_prepared_path(tmp_path: Path) -> None:
    (tmp_path / "lost+found").mkdir(mode=0o700)
    tmp_path.chmod(0o755)
    assert run(tmp_path, kind="volume") == ""
    assert owner(tmp_path) == (UID, "0o700")
    assert owner(tmp_path / "lost+found") == (0, "0o700"), "what the daemon did not make is not given away"


@needs_root
def test_stores_follow_a_pool_that_changes_its_user(folder: Path) -> None:
    run(folder, 65532)
    slot = folder / "slot-0"
    slot.mkdir(mode=0o700)
    (slot / "chunks").touch(0o600)
    for path in (slot, slot / "chunks"):
        os.chown(path, 65532, 65532)
    assert run(folder) == ""
    assert {owner(path)[0] for path in (folder, slot, slot / "chunks")} == {UID}


@needs_root
@pytest.mark.parametrize("where", ["slot-0", "slot-1/chunks"])
def test_no_link_is_followed(folder: Path, tmp_path: Path, where: str) -> None:
    run(folder, 65532)
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "file").touch()
    link = folder / where
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(victim)
    run(folder)
    assert owner(victim)[0] == owner(victim / "file")[0] == 0
    assert owner(folder)[0] == UID


@needs_root
@pytest.mark.parametrize("link", ["mnt", "mnt/team-a"])
def test_a_link_on_the_way_is_not_followed(folder: Path, tmp_path: Path, link: str) -> None:
    elsewhere = tmp_path / "elsewhere"
    (tmp_path / link).rename(elsewhere)
    (tmp_path / link).symlink_to(elsewhere)
    assert owner(folder)[0] == 0
    assert "a symbolic link, which is not followed" in run(folder)
    assert owner(folder)[0] == 0


# The layout of the first version, which was never released: the disk's folder and all below it were the sidecar's, 65532, and no
# folder was prepared. A container meets the pool's folder as a mount, whoever may pass above it on the node: here everybody may.
FIRST_VERSION = 65532


def make_first_version(root: Path) -> Path:
    folder = root / "mnt" / "team-a" / "uid"
    slot = folder / "slot-0"
    slot.mkdir(parents=True)
    (slot / "chunks").touch(0o600)
    for path, mode in (
        (slot / "chunks", 0o600),
        (slot, 0o700),
        (folder, 0o700),
        (folder.parent, 0o711),
        (root / "mnt", 0o711),
    ):
        os.chown(path, FIRST_VERSION, FIRST_VERSION)
        path.chmod(mode)
    return folder


@needs_root
def test_pools_folder_of_the_first_version_is_adopted_and_nothing_above_it_touched(tmp_path: Path) -> None:
    folder = make_first_version(tmp_path)
    assert run(folder) == ""
    assert {owner(path)[0] for path in (folder, folder / "slot-0", folder / "slot-0" / "chunks")} == {UID}
    assert owner(folder.parent) == (FIRST_VERSION, "0o711")


@needs_root
def test_new_folder_below_one_of_the_first_version_is_left_alone_and_says_what_to_do(tmp_path: Path) -> None:
    """The kubelet makes it root's, without the group: the tier is off there until the path is prepared."""
    new = make_first_version(tmp_path).with_name("another-pool")
    new.mkdir()
    assert "prepare the path: install -d" in run(new)
    assert owner(new)[0] == 0


@needs_root
def test_a_folder_that_is_a_link_is_left_alone(folder: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(folder)
    assert "is no folder" in run(link)
    assert owner(folder)[0] == 0
