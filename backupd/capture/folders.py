"""Folders below one root, opened component by component without ever following a symlink.

Scan, reading and restore all reach the disk through `FolderTree`, so that a parent that is
renamed or swapped for a symlink meanwhile cannot lead out of the root. What is done in a folder
once it is open is not decided here.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

OWN_TEMPORARY_PREFIX = b".backupd-restore-"
"""Names that restore writes to before the rename; never captured, removed by the next restore."""

FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
"""O_NOFOLLOW with O_DIRECTORY makes open(2) answer ENOTDIR for a symlink in the last place."""


_SLASH = 0x2F


def shown(path: bytes) -> str:
    """The path as text for people: what is not printable UTF-8 comes as backslash escapes."""
    text = path.decode("utf-8", "backslashreplace")
    if text.isprintable():
        return text or "."
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def parent_of(path: bytes) -> bytes:
    """The folder of a relative path; `b""` for what lies directly below the root."""
    return path[: max(path.rfind(b"/"), 0)]


def name_of(path: bytes) -> bytes:
    """The last name of a relative path."""
    return path[path.rfind(b"/") + 1 :]


class OpenFolder:
    """An open folder; its descriptor is closed when the last reference goes.

    Whoever uses `fd` keeps the object referenced meanwhile: the tree may drop its own reference
    at any moment, and a number without its object may by then mean another file.
    """

    __slots__ = ("fd", "path")

    def __init__(self, fd: int, path: bytes) -> None:
        self.fd = fd
        self.path = path

    def __del__(self) -> None:
        os.close(self.fd)


FolderT = TypeVar("FolderT", bound=OpenFolder)


class FolderTree(Generic[FolderT]):
    """The folders below `root`, of which the `keep` last used stay open. Safe for threads.

    `root` itself may be a symlink, for it is what the user named; nothing below it is followed.
    """

    def __init__(
        self, root: bytes, opened: Callable[[int, bytes], FolderT], *, keep: int = 64
    ) -> None:
        """Open `root`. Raises OSError where it is not a folder that can be listed."""
        self.root = opened(os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC), b"")
        self._opened = opened
        self._keep = max(keep, 2)
        self._cached: dict[bytes, FolderT] = {}
        self._last: FolderT = self.root
        self._lock = threading.Lock()

    def folder(self, path: bytes) -> FolderT:
        """The open folder at a relative path. Raises OSError, ENOTDIR also for a symlink."""
        last = self._last
        if last.path == path:
            return last
        if not path:
            return self.root
        with self._lock:
            found = self._cached.pop(path, None)
            if found is None:
                found = self._walk(path)
            self._remember(found)
            self._last = found
            return found

    def add(self, parent: FolderT, name: bytes) -> FolderT:
        """Open the folder `name` in `parent` and keep it. Raises OSError."""
        path = parent.path + b"/" + name if parent.path else name
        with self._lock:
            found = self._opened(os.open(name, FOLDER_FLAGS, dir_fd=parent.fd), path)
            self._cached.pop(path, None)
            self._remember(found)
            self._last = found
            return found

    def close(self) -> None:
        """Let go of all folders; each closes when nobody uses it any more. Once only, and last."""
        with self._lock:
            self._cached.clear()
            del self._last, self.root

    def _walk(self, path: bytes) -> FolderT:
        """Open `path` from its nearest ancestor that is open, keeping the last ones on the way."""
        above: OpenFolder = self.root
        start = 0
        for cached in self._cached.values():
            length = len(cached.path) + 1
            if length > start and path.startswith(cached.path) and path[length - 1] == _SLASH:
                above, start = cached, length
        names = path[start:].split(b"/")
        unkept = max(len(names) - self._keep, 0)
        for name in names[:unkept]:
            above = OpenFolder(os.open(name, FOLDER_FLAGS, dir_fd=above.fd), b"")
            start += len(name) + 1
        for name in names[unkept:-1]:
            fd = os.open(name, FOLDER_FLAGS, dir_fd=above.fd)
            start += len(name) + 1
            kept = self._opened(fd, path[: start - 1])
            self._remember(kept)
            above = kept
        return self._opened(os.open(names[-1], FOLDER_FLAGS, dir_fd=above.fd), path)

    def _remember(self, folder: FolderT) -> None:
        self._cached[folder.path] = folder
        while len(self._cached) > self._keep:
            del self._cached[next(iter(self._cached))]
