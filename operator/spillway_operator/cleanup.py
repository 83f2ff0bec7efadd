"""Remove what one pool left on one node's disk. Run as `python -m spillway_operator.cleanup` in the disk-cleanup pod.

Only `<root>/<namespace>/<pool uid>` is removed. No symbolic link is followed on the way there or inside, since whoever
wrote the folder is a tenant.
"""

from __future__ import annotations

import argparse
import os
import re
import stat
import sys
from collections.abc import Callable
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
    leftovers: list[str] = []
    for path, folders, files, here in os.fwalk(name, topdown=False, dir_fd=parent, onerror=_raise):
        for entry in files:
            leftovers += _attempt(os.unlink, entry, here, path)
        for entry in folders:
            is_link = stat.S_ISLNK(os.stat(entry, dir_fd=here, follow_symlinks=False).st_mode)
            leftovers += _attempt(os.unlink if is_link else os.rmdir, entry, here, path)
    return leftovers + _attempt(os.rmdir, name, parent, "")


def _attempt(remove: Callable[..., None], entry: str, folder: int, path: str) -> list[str]:
    try:
        remove(entry, dir_fd=folder)
    except FileNotFoundError:
        return []
    except OSError as error:
        return [f"{Path(path, entry)}: {error.strerror}"]
    return []


def _raise(error: OSError) -> None:
    raise error


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
