"""What can go wrong between a restore and the disk, in words."""

from __future__ import annotations

import contextlib
import errno
from types import TracebackType

from backupd.capture.folders import shown
from backupd.errors import BackupdError

_HINTS = {
    errno.ENOSPC: "Free space there or restore elsewhere with --to; the same command then goes on.",
    errno.EDQUOT: "Raise the quota or restore elsewhere with --to; the same command then goes on.",
    errno.EROFS: "Mount it writable or restore elsewhere with --to.",
    errno.EACCES: "Run as a user that may write there, or restore elsewhere with --to.",
    errno.EPERM: "Run as a user that may write there, or restore elsewhere with --to.",
    errno.ENAMETOOLONG: "Restore to a filesystem that takes such names with --to.",
    errno.EFBIG: "Restore to a filesystem that takes files of this size with --to.",
    errno.EIO: "Look at the disk (dmesg), and restore elsewhere with --to.",
}
_FATAL = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ESTALE, errno.ENOTCONN))


class PlacementError(BackupdError):
    """One path cannot be restored. With `fatal` none of the following can be either."""

    def __init__(self, path: bytes, reason: str, *, hint: str = "", fatal: bool = False) -> None:
        super().__init__(f"{shown(path)}: {reason}", hint=hint)
        self.path = path
        self.reason = reason
        self.fatal = fatal


class UnsafeEntryError(PlacementError):
    """The snapshot's entry names a place that is not, or cannot be, below the restore's root."""


class InTheWayError(PlacementError):
    """Something else is where the entry belongs, and was not to be (or cannot be) overwritten."""


def disk_error(path: bytes, error: OSError) -> PlacementError:
    """The PlacementError for what the system answered."""
    if error.errno in (errno.ENOTDIR, errno.ELOOP):
        return InTheWayError(
            path,
            "a file or symlink is where one of its folders belongs",
            hint="Give --overwrite to replace it, or restore elsewhere with --to.",
        )
    number = error.errno or 0
    return PlacementError(
        path,
        f"cannot be written: {error.strerror or error}",
        hint=_HINTS.get(number, ""),
        fatal=number in _FATAL,
    )


def in_the_way(path: bytes, what: str = "something else is in its place") -> InTheWayError:
    """The refusal to replace what is there."""
    return InTheWayError(
        path, what, hint="Give --overwrite to replace it, or restore elsewhere with --to."
    )


class placing(contextlib.AbstractContextManager[None]):  # noqa: N801 (reads as a statement)
    """Turns what the system answers within the block into a PlacementError naming `path`."""

    __slots__ = ("_path",)

    def __init__(self, path: bytes) -> None:
        self._path = path

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if isinstance(error, FileExistsError):
            raise in_the_way(self._path) from None
        if isinstance(error, OSError):
            raise disk_error(self._path, error) from None
