"""`python3 -m spillway.daemon.own_disk FOLDER UID GID folder|volume`: give the folder of the NVMe tier to the sidecar's user.

Runs as root with CAP_CHOWN and nothing else, before the sidecar, and sees FOLDER alone. A `volume` was made for this pod and is
root's. A `folder` lies on the node's disk, and the kubelet has made it, root's own, if it was not there. Below a path that the
administrator prepared (mode 2755, group 65532) what is made inherits that group; a folder of root's without it lies on whatever was
there when the disk was not mounted, and is left alone: the sidecar then finds it not writable and says so. See docs/adr/0001.
"""

from __future__ import annotations

import os
import re
import stat
import sys
from pathlib import Path

# Group of what is made below a prepared path.
PREPARED_GROUP = 65532
ROOT = 0
FOLDER_MODE = 0o700
_PASSAGE = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW
_SLOT = re.compile(r"^slot-[0-9]+$")


def main() -> None:
    """Entry point. Always ends well: a disk that cannot be given away costs the tier, which the sidecar says, not the pod."""
    try:
        folder, uid, gid = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
        problem = own(folder, uid, gid, is_prepared=sys.argv[4:] == ["volume"])
    except (OSError, ValueError, IndexError) as error:
        problem = f"{error!r}"
    if problem:
        sys.stderr.write(f"spillway-disk: {problem}\n")


def own(folder: Path, uid: int, gid: int, *, is_prepared: bool = False) -> str:
    """Make `folder` and the stores in it uid's; returns why not, empty where they are now. `is_prepared` vouches for its path.

    Nothing but what the daemon makes is given away (slot-N and the files in it), no link is followed, on the way to `folder` neither.
    Raises OSError.
    """
    way = _open_way(folder.parent)
    try:
        return _own(folder, way, uid, gid, is_prepared=is_prepared)
    finally:
        os.close(way)


def _open_way(path: Path) -> int:
    """The absolute path's folder, opened part by part: Python knows no openat2, and this refuses a link as that does."""
    here = os.open(path.anchor, _PASSAGE)
    for part in path.parts[1:]:
        try:
            below = os.open(part, _PASSAGE, dir_fd=here)
        except OSError as error:
            raise OSError(
                error.errno, f"{error.strerror}, or a symbolic link, which is not followed", str(path)
            ) from error
        finally:
            os.close(here)
        here = below
    return here


def _own(folder: Path, way: int, uid: int, gid: int, *, is_prepared: bool) -> str:
    owner = os.stat(folder.name, dir_fd=way, follow_symlinks=False)
    if not stat.S_ISDIR(owner.st_mode):
        return f"{folder} is no folder"
    if owner.st_uid == uid:
        return ""
    if owner.st_uid == ROOT and owner.st_gid != PREPARED_GROUP and not is_prepared:
        return (
            f"{folder} was not made below a prepared path (its group is {owner.st_gid}, not {PREPARED_GROUP}): is its disk "
            f"mounted? If so, prepare the path: install -d -o root -g {PREPARED_GROUP} -m 2755 PATH"
        )
    # Without CAP_DAC_OVERRIDE root must be the owner to look into a folder, and to set its mode.
    os.chown(folder.name, ROOT, -1, dir_fd=way, follow_symlinks=False)
    opened = os.open(folder.name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=way)
    try:
        for name in filter(_SLOT.match, _names(opened)):
            _own_slot(name, opened, uid, gid)
        os.fchmod(opened, FOLDER_MODE)
        os.fchown(opened, uid, gid)
    finally:
        os.close(opened)
    return ""


def _own_slot(name: str, folder: int, uid: int, gid: int) -> None:
    if not stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
        return
    os.chown(name, ROOT, -1, dir_fd=folder, follow_symlinks=False)
    slot = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)
    try:
        for file in _names(slot):
            os.chown(file, uid, gid, dir_fd=slot, follow_symlinks=False)
        os.fchown(slot, uid, gid)
    finally:
        os.close(slot)


def _names(folder: int) -> list[str]:
    with os.scandir(folder) as found:
        return [entry.name for entry in found]


if __name__ == "__main__":
    main()
