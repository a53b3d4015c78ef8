"""A version's files taken from the folder that is there: cloned, linked or copied, and verified.

What a file holds is never believed: its hash is that of the snapshot, or it is fetched.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterable
from dataclasses import dataclass

from backupd.operations.placement import RestoreRoot
from backupd.operations.previous import same_but_for_inode
from backupd.operations.restoring import is_right
from backupd.repository.tree import FileType, TreeEntry

_FICLONE = 0x40049409  # linux/fs.h: _IOW(0x94, 9, int)
_NO_CLONES = (errno.EOPNOTSUPP, errno.ENOTTY, errno.EINVAL, errno.EXDEV, errno.ENOSYS)
_READ_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
# A smaller file is looked for under its own path alone: it costs as little to fetch.
_MOVED_BYTES = 1 << 20
_HASH_BYTES = 1 << 20


@dataclass(slots=True)
class Taken:
    """How many files came from where, and their bytes."""

    files: int = 0
    size_bytes: int = 0

    def add(self, size_bytes: int) -> None:
        """One more file."""
        self.files += 1
        self.size_bytes += size_bytes


class LocalFiles:
    """The files of the model's folder, as the snapshot of its present state tells them."""

    def __init__(self, root: bytes, present: Iterable[TreeEntry]) -> None:
        """`root` is the model's folder; `present` is gone through once, in path order."""
        self._root = root
        self._by_path: dict[bytes, TreeEntry] = {}
        self._by_hash: dict[bytes, bytes] = {}
        self._clones = True
        self._buffer = memoryview(bytearray(_HASH_BYTES))
        self.shared = Taken()
        self.copied = Taken()
        for entry in present:
            # What was stored is not needed here, and takes most of the room.
            self._by_path[entry.path] = entry._replace(chunks=(), chunk_list=b"", layout=b"")
            if entry.type is FileType.FILE and entry.metadata.size_bytes >= _MOVED_BYTES:
                self._by_hash.setdefault(entry.content_hash, entry.path)

    def paths(self) -> Iterable[bytes]:
        """Every path of the present state."""
        return self._by_path

    def holds(self, path: bytes) -> bool:
        """Whether the snapshot of the present state holds a path."""
        return path in self._by_path

    def take(self, entry: TreeEntry, place: RestoreRoot, *, may_link: bool) -> bool:
        """Put a file of the version in its place from what is there; False where that fails.

        `may_link` allows the new path to be another name of the same file, which is done where
        its attributes are right too and the filesystem has no clones.
        """
        before = self._by_path.get(entry.path)
        if before is not None and self._is_same_content(before, entry):
            source = entry.path
        elif entry.content_hash in self._by_hash and entry.metadata.size_bytes >= _MOVED_BYTES:
            source, before = self._by_hash[entry.content_hash], None
        else:
            return False
        bare = entry._replace(chunks=(), chunk_list=b"", layout=b"")
        identical = before is not None and same_but_for_inode(before, bare)
        with contextlib.suppress(OSError):
            fd = os.open(self._root + b"/" + source, _READ_FLAGS)
            try:
                if self._clones and self._put(entry, place, fd, clone=True):
                    self.shared.add(entry.metadata.size_bytes)
                    return True
                if may_link and identical and self._link(entry, place, fd):
                    self.shared.add(entry.metadata.size_bytes)
                    return True
                if self._put(entry, place, fd, clone=False):
                    self.copied.add(entry.metadata.size_bytes)
                    return True
            finally:
                os.close(fd)
        return False

    def _is_same_content(self, before: TreeEntry, entry: TreeEntry) -> bool:
        return (
            before.type is FileType.FILE
            and before.content_hash == entry.content_hash
            and before.metadata.size_bytes == entry.metadata.size_bytes
            and before.extents == entry.extents
        )

    def _link(self, entry: TreeEntry, place: RestoreRoot, fd: int) -> bool:
        if not is_right(fd, entry, self._buffer):
            return False
        try:
            place.link_from(entry, fd)
        except OSError:
            return False  # of another owner (proc(5), protected_hardlinks), or no links here
        return True

    def _put(self, entry: TreeEntry, place: RestoreRoot, fd: int, *, clone: bool) -> bool:
        """Clone or copy the open file into its place, if it then is what the version says."""
        with place.begin_file(entry) as placed:
            if clone:
                try:
                    fcntl.ioctl(placed.fd, _FICLONE, fd)
                except OSError as error:
                    self._clones = self._clones and error.errno not in _NO_CLONES
                    return False
            else:
                for start, length in entry.extents or ((0, entry.metadata.size_bytes),):
                    _copy(fd, placed.fd, start, length)
            if not is_right(placed.fd, entry, self._buffer):
                return False
            placed.finish()
            return True


def _copy(source: int, to: int, start: int, length: int) -> None:
    """Copy a run of bytes in the kernel. Raises OSError."""
    offset, end = start, start + length
    while offset < end:
        done = os.copy_file_range(source, to, end - offset, offset, offset)
        if not done:
            raise OSError(errno.EIO, "the file is shorter than it was")
        offset += done


def carry(root: bytes, staged: bytes, paths: Iterable[tuple[bytes, bool]]) -> None:
    """Give what no snapshot keeps a name in the new folder too: (path, whether a folder).

    Raises OSError, FileExistsError where the version has something under that path.
    """
    for path, is_folder in paths:
        old, new = root + b"/" + path, staged + b"/" + path
        if is_folder:
            with contextlib.suppress(FileExistsError):
                os.mkdir(new)
                found = os.stat(old, follow_symlinks=False)
                os.chmod(new, found.st_mode & 0o7777)
                with contextlib.suppress(PermissionError):
                    os.chown(new, found.st_uid, found.st_gid)
        else:
            os.link(old, new, follow_symlinks=False)
