"""The folders that a restore writes to: opened without following symlinks, made where absent,
and cleared of what an interrupted earlier run left behind.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import stat

from backupd.capture.folders import (
    OWN_TEMPORARY_PREFIX,
    FolderTree,
    OpenFolder,
    name_of,
    parent_of,
    shown,
)
from backupd.errors import BackupdError
from backupd.operations.placement_errors import disk_error, placing

_UNFINISHED = OWN_TEMPORARY_PREFIX + b"unfinished"
_DEFAULT_ACL = "system.posix_acl_default"


class RestoreFolder(OpenFolder):
    """An open folder with what placing files in it needs to know.

    `fresh`: it was empty when it was opened, so what is in it now was put there by this run.
    `inherited_acl`: what is made in it gets an access ACL that its entry may not have.
    """

    __slots__ = ("fresh", "inherited_acl")

    fresh: bool
    inherited_acl: bool


class RestoreFolders:
    """The folders below the root of one restore. Safe for threads.

    `is_ours`: the root folder held nothing before this restore, or before an earlier run of it
    that was interrupted (a marker file in the root tells the next run so).
    """

    def __init__(self, root: bytes, *, overwrite: bool) -> None:
        """Create and open `root` and keep other restores out. Raises OSError, BackupdError."""
        self._overwrite = overwrite
        self._uid = os.geteuid()
        self._own = OWN_TEMPORARY_PREFIX + b"%d-" % os.getpid()
        self._counter = itertools.count()
        self._loosened: dict[bytes, int] = {}
        self.is_ours = False
        self._tree: FolderTree[RestoreFolder] | None = None
        os.makedirs(root, exist_ok=True)
        # Lock first: opening the tree's root already removes what it takes for leftovers.
        self._lock_fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            _lock(self._lock_fd, root)
            self._tree = FolderTree(root, self._opened, keep=128)
            if self.tree.root.fresh:
                self.is_ours = True
                flags = os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW
                os.close(os.open(_UNFINISHED, flags, 0o600, dir_fd=self.tree.root.fd))
        except BaseException:
            self.close()
            raise

    @property
    def tree(self) -> FolderTree[RestoreFolder]:
        """The open folders."""
        if self._tree is None:
            raise RuntimeError("the restore root is not open")
        return self._tree

    def close(self) -> None:
        """Let go of the folders and of the lock."""
        fd, self._lock_fd = self._lock_fd, -1
        if fd >= 0:
            if self._tree is not None:
                self._tree.close()
            os.close(fd)

    def temporary(self) -> bytes:
        """A name that no other path of this restore has."""
        return self._own + b"%d" % next(self._counter)

    def parent(self, path: bytes) -> RestoreFolder:
        """The open folder that `path` belongs in, made where a filter left it out.

        Raises PlacementError.
        """
        parent = parent_of(path)
        try:
            return self.tree.folder(parent)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise disk_error(path, error) from None
        end = 0
        while end >= 0:
            end = parent.find(b"/", end + 1)
            found = self.make(parent if end < 0 else parent[:end], mode=0o777)
        return found

    def make(self, path: bytes, mode: int = 0o700) -> RestoreFolder:
        """Create the folder `path`, or open the one that is there. Raises PlacementError."""
        name = name_of(path)
        with placing(path):
            folder = self.parent(path)
            try:
                os.mkdir(name, mode, dir_fd=folder.fd)
            except FileExistsError:
                found = os.stat(name, dir_fd=folder.fd, follow_symlinks=False)
                if not stat.S_ISDIR(found.st_mode):
                    if not self._overwrite:
                        raise
                    os.unlink(name, dir_fd=folder.fd)
                    os.mkdir(name, mode, dir_fd=folder.fd)
            return self.tree.add(folder, name)

    def settle(self, done: frozenset[bytes]) -> None:
        """Give loosened folders not in `done` their mode back, and drop the root's marker."""
        for path, mode in self._loosened.items():
            if path not in done:
                with contextlib.suppress(OSError):
                    os.fchmod(self.tree.folder(path).fd, mode)
        self._loosened.clear()
        if self.is_ours:
            with contextlib.suppress(OSError):
                os.unlink(_UNFINISHED, dir_fd=self.tree.root.fd)

    def _opened(self, fd: int, path: bytes) -> RestoreFolder:
        """A folder just opened: leftovers of an interrupted run in it are removed."""
        folder = RestoreFolder(fd, path)
        folder.fresh = True
        folder.inherited_acl = False
        if self._uid != 0:
            self._loosen(folder)
        with os.scandir(fd) as entries:
            for entry in entries:
                name = os.fsencode(entry.name)
                if not name.startswith(OWN_TEMPORARY_PREFIX):
                    folder.fresh = False
                elif name == _UNFINISHED and not path:
                    folder.fresh = False
                    self.is_ours = True
                elif name.startswith(self._own):
                    folder.fresh = False  # of this run, by another thread
                else:
                    with contextlib.suppress(OSError):
                        os.unlink(name, dir_fd=fd)
        with contextlib.suppress(OSError):  # ENODATA, or ENOTSUP where there are no ACLs
            folder.inherited_acl = bool(os.getxattr(fd, _DEFAULT_ACL))
        return folder

    def _loosen(self, folder: RestoreFolder) -> None:
        """Let a user who is not root write to an own folder that an earlier run made read-only."""
        found = os.fstat(folder.fd)
        mode = stat.S_IMODE(found.st_mode)
        if found.st_uid == self._uid and mode & 0o300 != 0o300:
            with contextlib.suppress(OSError):
                os.fchmod(folder.fd, mode | 0o700)
                self._loosened.setdefault(folder.path, mode)


def _lock(fd: int, root: bytes) -> None:
    """Keep a second restore out, which would take our temporary files for leftovers."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise BackupdError(
            f"another restore is writing to {shown(root)}",
            hint="Wait for it to end, or restore elsewhere with --to.",
        ) from None
    except OSError:
        pass  # NFS refuses to lock a folder open for reading
