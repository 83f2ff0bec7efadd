"""Remove what one pool left on one node's disk. Run as `python -m spillway_operator.cleanup` in the disk-cleanup pod.

Runs as root that may pass over the modes and owners of files and do nothing else of root's: the pool chooses its sidecar's user.
Only `<root>/<namespace>/<pool uid>` is removed. No symbolic link is followed on the way there or inside, since whoever
wrote the folder is a tenant.
"""

from __future__ import annotations

import argparse
import os
import re
import stat
import sys
import uuid
from collections.abc import Callable
from functools import partial
from pathlib import Path

# The termination message of a pod that succeeded. Absent is success too, but a disk that is not mounted looks the same.
REMOVED = "removed"
ABSENT = "absent"

_NAMESPACE = re.compile(r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")
_UID = re.compile(r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")


def remove_pool_folder(root: Path, namespace: str, pool_uid: str) -> list[str] | None:
    """Remove the pool's folder below `root`; None where it does not exist.

    Returns what could not be removed, as "path: reason", empty on success. Raises ValueError for a namespace or uid
    that is no such thing: nothing is touched then.
    """
    if not _NAMESPACE.match(namespace):
        raise ValueError(f"--namespace: {namespace!r} is no namespace name")
    if not _UID.match(pool_uid):
        raise ValueError(f"--pool-uid: {pool_uid!r} is no object uid")
    try:
        folder = os.open(root / namespace, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    try:
        if not _exists(pool_uid, folder):
            return None
        return _remove_tree(pool_uid, folder)
    except FileNotFoundError:
        return []  # gone while we looked: that is the aim
    finally:
        os.close(folder)


def _exists(name: str, parent: int) -> bool:
    try:
        os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _remove_tree(name: str, parent: int) -> list[str]:
    """Remove a folder of any depth with two open folders and no recursion: what lies in a subfolder is lifted to the top first."""
    leftovers: list[str] = []
    top = _open_folder(name, parent)
    try:
        stuck: set[str] = set()
        while entries := [entry for entry in _names(top) if entry not in stuck]:
            for entry in entries:
                found = _attempt(os.unlink, entry, top, name)
                if found and _is_folder(entry, top):
                    found = _flatten(entry, top, name)
                if found:
                    stuck.add(entry)
                    leftovers += found
    finally:
        os.close(top)
    return leftovers + _attempt(os.rmdir, name, parent, "")


def _flatten(name: str, top: int, path: str) -> list[str]:
    """Empty a folder of the top: its files go, its folders move to the top under names that nothing has. Then it goes itself."""
    leftovers: list[str] = []
    folder = _open_folder(name, top)
    try:
        for entry in _names(folder):
            found = _attempt(os.unlink, entry, folder, f"{path}/{name}")
            if found and _is_folder(entry, folder):
                lift = partial(os.rename, src_dir_fd=folder, dst_dir_fd=top)
                found = _attempt(
                    lambda entry, dir_fd, lift=lift: lift(entry, uuid.uuid4().hex), entry, folder, f"{path}/{name}"
                )
            leftovers += found
    finally:
        os.close(folder)
    return leftovers + _attempt(os.rmdir, name, top, path)


def _open_folder(name: str, parent: int) -> int:
    return os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)


def _names(folder: int) -> list[str]:
    with os.scandir(folder) as found:
        return [entry.name for entry in found]


def _is_folder(name: str, parent: int) -> bool:
    try:
        return stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False


def _attempt(remove: Callable[..., object], entry: str, folder: int, path: str) -> list[str]:
    try:
        remove(entry, dir_fd=folder)
    except FileNotFoundError:
        return []
    except OSError as error:
        return [f"{Path(path, entry)}: {error.strerror}"]
    return []


def main(arguments: list[str] | None = None) -> int:
    """Return 0 and say REMOVED or ABSENT where nothing is left, 1 with one line per leftover otherwise."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="the mounted hostPath folder")
    parser.add_argument("--namespace", required=True, help="namespace of the pool")
    parser.add_argument("--pool-uid", required=True, help="uid of the pool")
    parser.add_argument("--termination-log", type=Path, required=True, help="file that the kubelet reads afterwards")
    options = parser.parse_args(arguments)
    try:
        leftovers = remove_pool_folder(options.root, options.namespace, options.pool_uid)
    except OSError as error:
        leftovers = [f"{error.filename}: {error.strerror}"]
    if leftovers:
        sys.stderr.writelines(line + "\n" for line in leftovers)
        return 1
    options.termination_log.write_text(ABSENT if leftovers is None else REMOVED)
    return 0


if __name__ == "__main__":
    sys.exit(main())
