"""Giving a finished file its name only where nothing has that name yet.

One of any number of racing writers gets it, also on filesystems that have no hard links.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable

from backupd.errors import TargetUnreachableError
from backupd.targets import folders

# link(2): what filesystems without hard links answer.
_NO_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})
_PAUSE_SECONDS = 0.02
_PATIENCE_SECONDS = 10.0


def rename_if_absent(root: int, temporary: str, name: str) -> bool:
    """Give the file `temporary` the name `name` where that is free; true when it got it.

    By link(2), which is atomic everywhere that has it. The file keeps its old name as well.
    """
    try:
        os.link(temporary, name, src_dir_fd=root, dst_dir_fd=root, follow_symlinks=False)
    except FileExistsError:
        # An NFS client that sent its request twice is told of its own first success (open(2)).
        return _same_file(root, temporary, name)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        return claim_and_rename(root, temporary, name)
    return True


def claim_and_rename(
    root: int,
    temporary: str,
    name: str,
    *,
    sleep: Callable[[float], None] = time.sleep,
    patience_seconds: float = _PATIENCE_SECONDS,
) -> bool:
    """As `rename_if_absent`, for filesystems without hard links (vfat, exFAT, some SMB mounts).

    A file that stands for the name is created with O_EXCL among the temporaries; whoever made it
    looks whether the name is free, renames, and removes it. So two writers are never between
    looking and renaming at once. A claim whose writer was killed holds up writers of that one
    name until it is swept with the temporaries, a day later: each then waits for
    `patience_seconds` and raises `TargetUnreachableError`.
    """
    claim = f"{folders.TEMPORARY}/{name.replace('/', '~')}"
    waited = 0.0
    while True:
        try:
            os.close(folders.create(root, claim))
            break
        except FileExistsError:
            if _exists(root, name):
                return False
        if waited >= patience_seconds:
            raise TargetUnreachableError(
                f"{name} is being stored by another writer that does not finish",
                hint=f"if no other backupd writes there, remove {claim} in the target's folder",
            )
        sleep(_PAUSE_SECONDS)
        waited += _PAUSE_SECONDS
    try:
        if _exists(root, name):
            return False
        os.rename(temporary, name, src_dir_fd=root, dst_dir_fd=root)
        return True
    finally:
        folders.remove(root, claim)


def _exists(root: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=root, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _same_file(root: int, first: str, second: str) -> bool:
    try:
        one = os.stat(first, dir_fd=root, follow_symlinks=False)
        other = os.stat(second, dir_fd=root, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino)
