"""The system calls that restore needs and that the standard library does not offer."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable
from typing import Any

_RENAME_NOREPLACE = 1  # linux/fs.h
_FALLOC_FL_KEEP_SIZE = 1  # linux/falloc.h
_PREALLOCATING = frozenset((0xEF53, 0x58465342))  # ext4 and xfs, linux/magic.h
_UNSUPPORTED = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)


class RestoreCalls:
    """The calls, looked up once in the C library; each has a way without."""

    def __init__(self) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._renameat2 = _function(libc, "renameat2")
        self._syncfs = _function(libc, "syncfs")
        self._fallocate = _function(libc, "fallocate64") or _function(libc, "fallocate")
        self._fstatfs = _function(libc, "fstatfs64") or _function(libc, "fstatfs")

    def rename_to_free(self, old: bytes, new: bytes, folder_fd: int) -> None:
        """Rename within a folder, atomically refusing (FileExistsError) where `new` exists."""
        if self._renameat2 is not None:
            if self._renameat2(folder_fd, old, folder_fd, new, _RENAME_NOREPLACE) == 0:
                return
            number = ctypes.get_errno()
            if number not in _UNSUPPORTED:
                raise OSError(number, os.strerror(number))
            self._renameat2 = None  # NFS and others do not know the flag (rename(2))
        try:
            os.stat(new, dir_fd=folder_fd, follow_symlinks=False)
        except FileNotFoundError:
            os.rename(old, new, src_dir_fd=folder_fd, dst_dir_fd=folder_fd)
            return
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))

    def sync_filesystem(self, fd: int) -> None:
        """Write all of the filesystem that `fd` lies on to the disk. Raises OSError."""
        if self._syncfs is None:
            os.sync()
        elif self._syncfs(fd) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))

    def reserve(self, fd: int, size: int) -> None:
        """Set the room for a file aside where that is only bookkeeping. Raises OSError (ENOSPC).

        The size stays 0, so that a file cut off by a power loss does not look whole. Filesystems
        where it would write zeroes (tmpfs, and glibc's emulation elsewhere) are left alone.
        """
        if self._fallocate is None or self._fstatfs is None:
            return
        answer = ctypes.create_string_buffer(256)
        if self._fstatfs(fd, answer) != 0:
            return
        if ctypes.c_long.from_buffer(answer).value not in _PREALLOCATING:
            return
        if self._fallocate(fd, _FALLOC_FL_KEEP_SIZE, ctypes.c_longlong(0), ctypes.c_longlong(size)):
            number = ctypes.get_errno()
            if number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise OSError(number, os.strerror(number))


def _function(libc: ctypes.CDLL, name: str) -> Callable[..., Any] | None:
    found = getattr(libc, name, None)
    return found if callable(found) else None
