"""The disk cleanup removes one pool's folder and nothing else."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from spillway_operator.cleanup import main, remove_pool_folder

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs files of other users")

UID = "0f0e0d0c-0b0a-0908-0706-050403020100"
OTHER_UID = "aaaaaaaa-0b0a-0908-0706-050403020100"


def make_pool_folder(root: Path, uid: str = UID) -> Path:
    slot = root / "team-a" / uid / "slot-0"
    slot.mkdir(parents=True)
    (slot / "chunks").write_bytes(b"x" * 4096)
    return slot.parent


def run(root: Path, termination_log: Path, namespace: str = "team-a") -> int:
    options = {"--root": root, "--namespace": namespace, "--pool-uid": UID, "--termination-log": termination_log}
    return main([str(word) for option in options.items() for word in option])


def test_removes_the_pool_folder_and_leaves_the_neighbour(tmp_path: Path) -> None:
    mine, other = make_pool_folder(tmp_path), make_pool_folder(tmp_path, OTHER_UID)
    assert remove_pool_folder(tmp_path, "team-a", UID) == []
    assert not mine.exists()
    assert (other / "slot-0" / "chunks").exists()


@pytest.mark.parametrize("namespace", ["team-a", "team-b"])
def test_absent_folder_is_success_and_told_from_a_removed_one(tmp_path: Path, namespace: str) -> None:
    (tmp_path / "team-a").mkdir()
    log = tmp_path / "termination-log"
    assert run(tmp_path, log, namespace) == 0
    assert log.read_text() == "absent"
    make_pool_folder(tmp_path)
    assert run(tmp_path, log) == 0
    assert log.read_text() == "removed"


def test_does_not_follow_links_inside_the_folder(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "precious").touch()
    folder = make_pool_folder(tmp_path)
    (folder / "link-to-folder").symlink_to(victim)
    (folder / "link-to-file").symlink_to(victim / "precious")
    assert remove_pool_folder(tmp_path, "team-a", UID) == []
    assert not folder.exists()
    assert (victim / "precious").exists()


def test_does_not_follow_a_namespace_folder_that_is_a_link(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    make_pool_folder(elsewhere)
    (tmp_path / "team-a").symlink_to(elsewhere / "team-a")
    log = tmp_path / "termination-log"
    assert run(tmp_path, log) == 1
    assert not log.exists(), "the kubelet then takes what was printed"
    assert (elsewhere / "team-a" / UID / "slot-0" / "chunks").exists()


def test_does_not_follow_a_link_in_the_place_of_the_pools_folder(tmp_path: Path) -> None:
    """Below a namespace's folder of the first version, which was no root's, somebody may have put one."""
    elsewhere = make_pool_folder(tmp_path / "elsewhere")
    link = tmp_path / "team-a" / UID
    link.parent.mkdir()
    link.symlink_to(elsewhere)
    log = tmp_path / "termination-log"
    assert run(tmp_path, log) == 1
    assert not log.exists()
    assert (elsewhere / "slot-0" / "chunks").exists()


@pytest.mark.parametrize(("namespace", "uid"), [("..", UID), ("team-a/../x", UID), ("team-a", ".."), ("team-a", "")])
def test_refuses_names_that_could_leave_the_root(tmp_path: Path, namespace: str, uid: str) -> None:
    folder = make_pool_folder(tmp_path)
    with pytest.raises(ValueError, match=r"is no (namespace name|object uid)"):
        remove_pool_folder(tmp_path, namespace, uid)
    assert folder.exists()


def test_removes_what_lies_deeper_than_any_path_is_long(tmp_path: Path) -> None:
    """The kernel takes no path beyond 4,096 bytes, Python recurses 1,000 deep, and whoever wrote the folder knows both."""
    folder = make_pool_folder(tmp_path)
    here = os.open(folder, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("n", dir_fd=here)
        os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=here))
        below = os.open("n", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    assert remove_pool_folder(tmp_path, "team-a", UID) == []
    assert not folder.exists()


def run_with_two_rights(root: Path, log: Path) -> None:
    """As the cleanup pod does: root with DAC_OVERRIDE and FOWNER."""
    rights = "-all,+dac_override,+fowner"
    program = [
        "setpriv",
        "--bounding-set",
        rights,
        "--inh-caps",
        rights,
        sys.executable,
        "-m",
        "spillway_operator.cleanup",
    ]
    options = {"--root": root, "--namespace": "team-a", "--pool-uid": UID, "--termination-log": log}
    subprocess.run([*program, *(str(word) for option in options.items() for word in option)], check=True)


@needs_root
@pytest.mark.parametrize("uid", [65532, 1000, 2**31 - 1])
def test_removes_the_folder_of_every_user_with_two_rights_of_roots(tmp_path: Path, uid: int) -> None:
    folder = make_pool_folder(tmp_path)
    for path in (folder / "slot-0" / "chunks", folder / "slot-0", folder):
        os.chown(path, uid, uid)
        path.chmod(0o1700 if path.is_dir() else 0o400)
    log = tmp_path / "termination-log"
    run_with_two_rights(tmp_path, log)
    assert log.read_text() == "removed"
    assert not folder.exists()


@needs_root
def test_removes_a_folder_of_the_first_version_and_leaves_what_stood_beside_it(tmp_path: Path) -> None:
    """There the disk's folder and the namespace's were 65532's as well, and closed to all others: docs/adr/0001."""
    disk, log = tmp_path / "mnt", tmp_path / "termination-log"
    mine, other = make_pool_folder(disk), make_pool_folder(disk, OTHER_UID)
    for path in (disk, *disk.rglob("*")):
        os.chown(path, 65532, 65532)
        path.chmod(0o700 if path.is_dir() else 0o600)
    run_with_two_rights(disk, log)
    assert log.read_text() == "removed"
    assert not mine.exists()
    assert (other / "slot-0" / "chunks").read_bytes() == b"x" * 4096


def test_says_what_it_could_not_remove_and_removes_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_pool_folder(tmp_path)
    (folder / "slot-0" / "held").touch()
    unlink = os.unlink

    def refuse(name: str, *, dir_fd: int) -> None:
        if name == "held":
            raise PermissionError(1, "Operation not permitted")
        unlink(name, dir_fd=dir_fd)

    monkeypatch.setattr(os, "unlink", refuse)
    leftovers = remove_pool_folder(tmp_path, "team-a", UID)
    assert leftovers is not None
    assert leftovers[0] == f"{UID}/slot-0/held: Operation not permitted"
    assert not (folder / "slot-0" / "chunks").exists()
