"""What the operating system's error numbers mean for a target that is a folder, in words.

Only the translation lives here; when to try again is decided elsewhere.
"""

from __future__ import annotations

import errno
import os

from backupd.errors import (
    TargetError,
    TargetFullError,
    TargetReadOnlyError,
    TargetUnreachableError,
)

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_REFUSED = frozenset({errno.EACCES, errno.EPERM})
# What disks that fail, network mounts whose server is gone and unplugged disks answer with.
_AWAY = frozenset(
    {
        errno.EIO,
        errno.ESTALE,
        errno.ETIMEDOUT,
        errno.ENOTCONN,
        errno.ECONNREFUSED,
        errno.ECONNRESET,
        errno.ECONNABORTED,
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
        errno.ENETDOWN,
        errno.ENETUNREACH,
        errno.EREMOTEIO,
        errno.ESHUTDOWN,
        errno.ENODEV,
        errno.ENXIO,
    }
)


def translate(error: OSError, target: str, path: str, *, writing: bool) -> TargetError:
    """The `TargetError` that says what `error` means for `path` on the target named `target`.

    `writing` tells a refusal to store from a refusal to read, which need different mends.
    """
    code = error.errno or 0
    reason = os.strerror(code) if code else str(error)
    deed = "written to" if writing else "read"
    sentence = f"target {target!r}: {path} cannot be {deed}: {reason}"
    if code in _FULL:
        return TargetFullError(
            f"target {target!r} is full: {path} cannot be written: {reason}",
            hint="free space (or inodes, see `df -i`), or run `backupd forget` and `backupd prune`",
        )
    if code == errno.EROFS:
        return TargetReadOnlyError(
            f"target {target!r} is read-only: {path} cannot be written: {reason}",
            hint="mount it writable again; after a disk error look into `dmesg` first",
        )
    if code in _REFUSED:
        hint = "give the user that backupd runs as the right to it, or correct the target's path"
        return (TargetReadOnlyError if writing else TargetError)(sentence, hint=hint)
    if code in _AWAY:
        return TargetUnreachableError(
            sentence, hint="see that the disk or mount is there and healthy (`dmesg`, `mount`)"
        )
    return TargetError(sentence)


def absent_root(target: str, root: str, reason: str = "there is no such folder") -> TargetError:
    """The error for a target whose own folder is not there."""
    return TargetUnreachableError(
        f"target {target!r} cannot be reached: {root}: {reason}",
        hint="mount or plug in its disk, correct the path, or run `backupd init` to create it",
    )
