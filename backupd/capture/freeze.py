"""A file's state kept still while it is read, on filesystems that can share its blocks.

The clone (ioctl_ficlone(2)) has no name (O_TMPFILE, open(2)): the kernel frees it with the last
descriptor, however the process ends, so none can be left behind.
"""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import threading

_FICLONE = 0x40049409  # _IOW(0x94, 9, int), linux/fs.h
_MOST_CLONES = 512
_NOT_HERE = frozenset({errno.EOPNOTSUPP, errno.ENOTTY, errno.EXDEV, errno.ENOSYS})


class Freezer:
    """Makes clones of files of one model's filesystem. Safe for threads.

    Where the filesystem has no reflinks, or nothing may be made there, it gives None from then
    on, and the file is read as it stands.
    """

    def __init__(self, root: bytes) -> None:
        """`root` is the model's folder. Clones are made beside it, else in it; both are hidden."""
        self._root = root
        self._folder = -1
        self._able = True
        self._lock = threading.Lock()
        self._left = min(_MOST_CLONES, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4)

    @property
    def able(self) -> bool:
        """Whether a further clone may succeed."""
        with self._lock:
            return self._able and self._left > 0

    def clone(self, fd: int) -> int | None:
        """The descriptor of a clone of the open file `fd`, the caller's to close, or None.

        The clone is of one moment: the kernel lets no write through while it is made.
        """
        with self._lock:
            if not self._able or self._left <= 0:
                return None
            if self._folder < 0:
                self._folder = _folder_beside(self._root, os.fstat(fd).st_dev)
            if self._folder < 0:
                self._able = False
                return None
            self._left -= 1
        copy = -1
        try:
            copy = os.open(".", os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600, dir_fd=self._folder)
            fcntl.ioctl(copy, _FICLONE, fd)
        except OSError as error:
            if copy >= 0:
                os.close(copy)
            self.release()
            # A full disk or a file of another mount says nothing of the next one.
            if error.errno in _NOT_HERE or copy < 0:
                self._able = False
            return None
        return copy

    def release(self) -> None:
        """Tell that a clone was closed."""
        with self._lock:
            self._left += 1

    def close(self) -> None:
        """Let go of the folder; clones stay as long as they are open."""
        with self._lock:
            self._able = False
            folder, self._folder = self._folder, -1
        if folder >= 0:
            os.close(folder)


def _folder_beside(root: bytes, device: int) -> int:
    """A folder on `device` that unnamed files can be made in, or -1.

    Beside the model rather than in it, so that a watch of the model sees nothing.
    """
    for place in (os.path.dirname(os.path.realpath(root)), root):
        try:
            folder = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            if os.fstat(folder).st_dev == device and os.access(".", os.W_OK, dir_fd=folder):
                return folder
        except OSError:
            pass
        os.close(folder)
    return -1
