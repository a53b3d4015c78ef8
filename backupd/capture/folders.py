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

    def drop(self, path: bytes) -> None:
        """Forget the folder at `path` and all below it, since the path may now mean another."""
        below = path + b"/"
        with self._lock:
            for cached in [p for p in self._cached if p == path or p.startswith(below)]:
                del self._cached[cached]
            if self._last.path == path or self._last.path.startswith(below):
                self._last = self.root

    def close(self) -> None:
        """Let go of all folders but the root, whose descriptor goes with this object."""
        with self._lock:
            self._cached.clear()
            self._last = self.root

    def _walk(self, path: bytes) -> FolderT:
        """Open `path` from its nearest ancestor that is open."""
        ancestor = parent_of(path)
        while ancestor and ancestor not in self._cached:
            ancestor = parent_of(ancestor)
        found = self._cached[ancestor] if ancestor else self.root
        start = len(ancestor) + 1 if ancestor else 0
        while True:
            end = path.find(b"/", start)
            name = path[start:] if end < 0 else path[start:end]
            here = path if end < 0 else path[:end]
            found = self._opened(os.open(name, FOLDER_FLAGS, dir_fd=found.fd), here)
            if end < 0:
                return found
            self._remember(found)
            start = end + 1

    def _remember(self, folder: FolderT) -> None:
        self._cached[folder.path] = folder
        while len(self._cached) > self._keep:
            del self._cached[next(iter(self._cached))]
