"""Snapshots as a read-only filesystem: the thin side to FUSE of the folders of `browsing`."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from backupd.errors import BackupdError
from backupd.operations.browsing import OpenFile, SnapshotFolders
from backupd.operations.installation import Installation

_T = TypeVar("_T")
_INSTALL = "install FUSE (apt install fuse3) and mfusepy (pip install 'backupd[mount]')"
_ERRNOS: dict[type[OSError], int] = {
    FileNotFoundError: errno.ENOENT,
    NotADirectoryError: errno.ENOTDIR,
    IsADirectoryError: errno.EISDIR,
}


def mount(
    installation: Installation,
    folder: Path,
    *,
    tell: Callable[[str], None],
    ready: Callable[[], None],
) -> None:
    """Show all snapshots in `folder` until it is unmounted.

    `tell` takes a sentence on what could not be read, `ready` is called when the folder can be
    looked into. Raises `BackupdError` where nothing can be mounted there.
    """
    try:
        import mfusepy
    except (ImportError, OSError):
        raise BackupdError("this machine cannot mount snapshots yet", hint=_INSTALL) from None
    if not folder.is_dir():
        raise BackupdError(f"{folder} is no folder", hint=f"make it: mkdir -p {folder}")
    if next(folder.iterdir(), None) is not None:
        raise BackupdError(f"{folder} is not empty", hint="name an empty folder to mount on")
    folders = SnapshotFolders(installation, monotonic=time.monotonic, note=tell)
    folders.names(b"")  # what cannot be reached or opened is said before anything is mounted
    try:
        mfusepy.FUSE(
            _operations(mfusepy, folders, tell, ready),
            str(folder),
            foreground=True,
            ro=True,
            fsname="backupd",
            subtype="backupd",
        )
    except RuntimeError:
        # libfuse has told why on standard error.
        raise BackupdError(f"nothing can be mounted on {folder}", hint=_INSTALL) from None


def _operations(
    mfusepy: Any, folders: SnapshotFolders, tell: Callable[[str], None], ready: Callable[[], None]
) -> Any:
    """What libfuse calls, from its own threads."""

    class Operations(mfusepy.Operations):  # type: ignore[misc]
        """Paths come as text with a leading slash; handles are numbers of ours."""

        use_ns = True

        def __init__(self) -> None:
            self.files: dict[int, OpenFile] = {}
            self.last = 0

        def init(self, path: str) -> None:
            ready()

        def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:
            found = _answer(lambda: folders.attributes(_inner(path)), path)
            return {
                "st_mode": found.mode,
                "st_size": found.size_bytes,
                "st_blocks": (found.size_bytes + 511) // 512,
                "st_mtime": found.mtime_ns,
                "st_ctime": found.mtime_ns,
                "st_atime": found.mtime_ns,
                "st_uid": found.uid,
                "st_gid": found.gid,
                "st_nlink": found.links,
            }

        def readdir(self, path: str, fh: int) -> Iterator[str]:
            names = _answer(lambda: folders.names(_inner(path)), path)
            return iter([".", "..", *map(os.fsdecode, names)])

        def readlink(self, path: str) -> str:
            return os.fsdecode(_answer(lambda: folders.link(_inner(path)), path))

        def open(self, path: str, flags: int) -> int:
            file = _answer(lambda: folders.open(_inner(path)), path)
            self.last += 1
            self.files[self.last] = file
            return self.last

        def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
            return _answer(lambda: folders.read(self.files[fh], offset, size), path)

        def release(self, path: str, fh: int) -> int:
            self.files.pop(fh, None)
            return 0

        def listxattr(self, path: str) -> list[str]:
            found = _answer(lambda: folders.attributes(_inner(path)), path)
            return [os.fsdecode(name) for name in found.xattrs]

        def getxattr(self, path: str, name: str, position: int = 0) -> bytes:
            found = _answer(lambda: folders.attributes(_inner(path)), path)
            value = found.xattrs.get(os.fsencode(name))
            if value is None:
                raise mfusepy.FuseOSError(errno.ENODATA)
            return value

    def _answer(ask: Callable[[], _T], path: str) -> _T:
        try:
            return ask()
        except BackupdError as error:
            tell(f"{path}: {error.message}")
            raise mfusepy.FuseOSError(errno.EIO) from None
        except OSError as error:
            number = _ERRNOS.get(type(error)) or error.errno or errno.EIO
            raise mfusepy.FuseOSError(number) from None

    return Operations()


def _inner(path: str) -> bytes:
    return os.fsencode(path.strip("/"))
