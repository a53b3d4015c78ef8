"""What lies in a model's folder, found one folder at a time and never outside of it.

`Scan` names paths with their stat results; nothing is opened for its content here (that is
`reading`), and nothing is compared with an earlier snapshot (that is the caller's).
"""

from __future__ import annotations

import bisect
import enum
import errno
import heapq
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import NamedTuple

from backupd.capture.exclude import Exclusion
from backupd.capture.folders import (
    OWN_TEMPORARY_PREFIX,
    FolderTree,
    OpenFolder,
    name_of,
    parent_of,
    shown,
)
from backupd.capture.metadata import MetadataReader
from backupd.errors import BackupdError
from backupd.repository.tree import FileType, Metadata

_FORMAT_MASK = 0o170000  # S_IFMT and its values below, see inode(7)
_REGULAR = 0o100000
_FOLDER = 0o040000
_SYMLINK = 0o120000
_SPECIAL = {0o140000: "a socket", 0o010000: "a FIFO", 0o060000: "a device", 0o020000: "a device"}


class SkipKind(enum.Enum):
    """Why a path is not in the snapshot, or not all of it."""

    SPECIAL = "special"
    """A socket, FIFO or device: nothing that a backup could hold."""
    MOUNT = "mount"
    """Another filesystem is mounted here; the folder is kept, its content is not."""
    VANISHED = "vanished"
    """It was deleted or replaced while the scan ran."""
    UNREADABLE = "unreadable"
    """Wanted, but the system refuses to read it: the snapshot is without it."""
    CHANGING = "changing"
    """Wanted, but it never held still while it was read."""
    TORN = "torn"
    """Wanted, but it is not written to its end: the snapshot has an earlier state, or none."""
    ATTRIBUTES = "attributes"
    """Kept, but without some of its extended attributes."""
    SECRET = "secret"  # noqa: S105 - the name of a kind
    """It holds a secret, and those are not to be kept."""


class Skipped(NamedTuple):
    """A path that is named but not kept; `reason` goes after the path in a sentence."""

    path: bytes
    kind: SkipKind
    reason: str

    @property
    def missing(self) -> bool:
        """Whether the snapshot lacks something that was wanted (exit code 3)."""
        return self.kind in (SkipKind.UNREADABLE, SkipKind.CHANGING, SkipKind.TORN)

    def __str__(self) -> str:
        return f"{shown(self.path)}: {self.reason}"


class LeftOutError(BackupdError):
    """One path cannot be captured; `skipped` says which and why. The others go on."""

    def __init__(self, skipped: Skipped) -> None:
        super().__init__(str(skipped))
        self.skipped = skipped


class Scanned(NamedTuple):
    """A path that is to be kept (a tuple, since there are as many of them as files).

    `path` is relative to the root, which itself is `b""`; `stat` is that of lstat(2); `link` is
    a symlink's target, or for a HARDLINK the path of the earlier entry of the same inode.
    """

    path: bytes
    type: FileType
    stat: os.stat_result
    link: bytes = b""


@dataclass(frozen=True, slots=True)
class ScanOptions:
    """What to leave out: gitignore-style `exclude`, and other filesystems unless told."""

    exclude: tuple[str, ...] = ()
    one_filesystem: bool = True


class _Frame:
    """A folder whose names are being gone through.

    `contents` is a heap of the subfolders still to be entered, as `name/`: that is where their
    content belongs in the order of whole paths, e.g. `a`, `a-b`, `a/b`.
    """

    __slots__ = ("contents", "names", "path", "prefix")

    def __init__(self, path: bytes, names: list[bytes]) -> None:
        self.path = path
        self.prefix = path + b"/" if path else b""
        self.names = names[::-1]
        self.contents: list[bytes] = []


class Scan:
    """One pass over a model's folder; a context manager that holds a bounded set of folders open.

    Iterating yields `Scanned` in strictly ascending order of the path's bytes (so the root comes
    first and a folder before its content), with `Skipped` in between. Memory is bounded by the
    names of the folders from the root to the present one, and by the paths of inodes of which
    not all links were seen yet. `metadata` and `reading.open_for_capture` may be called from
    other threads and after the scan has moved on.
    """

    def __init__(self, root: bytes, options: ScanOptions | None = None) -> None:
        """Open `root`, an absolute path. Raises BackupdError where that is not possible."""
        self._options = options or ScanOptions()
        self._exclusion = Exclusion(self._options.exclude)
        self._links: dict[tuple[int, int], tuple[bytes, os.stat_result, int]] = {}
        self._metadata = MetadataReader()
        self.root = root
        try:
            self._tree: FolderTree[OpenFolder] = FolderTree(root, OpenFolder)
        except OSError as error:
            raise _root_error(root, error) from None

    def __enter__(self) -> Scan:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._tree.close()

    def folder_of(self, path: bytes) -> OpenFolder:
        """The open folder that holds `path`, reached without following symlinks.

        Raises LeftOutError. Keep the answer referenced as long as its `fd` is used.
        """
        try:
            return self._tree.folder(parent_of(path))
        except OSError as error:
            raise LeftOutError(_refused(path, error)) from None

    def metadata(
        self,
        scanned: Scanned,
        *,
        now_ns: int,
        skipped: list[Skipped],
        fd: int = -1,
        stat: os.stat_result | None = None,
    ) -> Metadata:
        """The Metadata of a scanned path, with its extended attributes.

        For a FILE give the `fd` and `stat` of the CaptureFile it was read from, so that both are
        of one inode. A HARDLINK has the attributes of the entry it names and needs none.
        Attributes that cannot be kept are added to `skipped`. `now_ns` (epoch) marks a ctime
        that is too young to be trusted, see `metadata.settled_ctime_ns`. Raises LeftOutError
        when a folder or symlink vanished.
        """
        path = scanned.path
        found = stat or scanned.stat

        def left_out(reason: str) -> None:
            skipped.append(Skipped(path, SkipKind.ATTRIBUTES, reason))

        if fd >= 0:
            return self._metadata.metadata(found, fd, now_ns=now_ns, left_out=left_out)
        if scanned.type is FileType.FOLDER:
            try:
                folder = self._tree.folder(path)
            except OSError as error:
                raise LeftOutError(_refused(path, error)) from None
            return self._metadata.metadata(found, folder.fd, now_ns=now_ns, left_out=left_out)
        folder = self.folder_of(path)
        # There is no flistxattr(2) for a symlink, and listxattr(2) takes no folder; the
        # magic link names the open folder itself, whatever was renamed meanwhile.
        where = b"/proc/self/fd/%d/%b" % (folder.fd, name_of(path))
        return self._metadata.metadata(found, where, now_ns=now_ns, left_out=left_out)

    def release_link(self, scanned: Scanned) -> None:
        """Tell that this path of several to one inode could not be stored.

        The next path of the inode then comes as a FILE again, not as a HARDLINK to this one.
        """
        key = (scanned.stat.st_dev, scanned.stat.st_ino)
        first = self._links.get(key)
        if first is not None and first[0] == scanned.path:
            del self._links[key]

    def __iter__(self) -> Iterator[Scanned | Skipped]:
        """Go through the folder. Raises BackupdError where the root itself fails."""
        try:
            top = os.fstat(self._tree.root.fd)
            frames = [_Frame(b"", self._list(self._tree.root))]
        except OSError as error:
            raise _root_error(self.root, error) from None
        yield Scanned(b"", FileType.FOLDER, top)
        device = top.st_dev if self._options.one_filesystem else None
        while frames:
            frame = frames[-1]
            try:
                folder = self._tree.folder(frame.path)
            except OSError as error:
                frames.pop()
                yield _refused(frame.path, error)
                continue
            yield from self._entries(frame, folder, device)
            if not frame.contents:
                frames.pop()
                continue
            below = frame.prefix + heapq.heappop(frame.contents)[:-1]
            try:
                frames.append(_Frame(below, self._list(self._tree.folder(below))))
            except OSError as error:
                yield _refused(below, error)
        # Were the root itself gone, all below it would look deleted, and a snapshot of nothing
        # would follow the last good one.
        try:
            still = os.stat(self.root)
        except OSError as error:
            raise _root_error(self.root, error) from None
        if (still.st_dev, still.st_ino) != (top.st_dev, top.st_ino):
            raise BackupdError(
                f"the model folder {shown(self.root)} was replaced while it was scanned",
                hint="Take the snapshot again.",
            )

    def _entries(
        self, frame: _Frame, folder: OpenFolder, device: int | None
    ) -> Iterator[Scanned | Skipped]:
        """The entries of one folder up to where the next subfolder's content belongs."""
        fd = folder.fd
        prefix = frame.prefix
        names = frame.names
        contents = frame.contents
        lstat = os.stat
        regular = FileType.FILE
        while names:
            name = names[-1]
            if contents and contents[0] < name:
                return
            names.pop()
            path = prefix + name
            try:
                found = lstat(name, dir_fd=fd, follow_symlinks=False)
            except OSError as error:
                yield _refused(path, error)
                continue
            form = found.st_mode & _FORMAT_MASK
            if form == _REGULAR:
                if found.st_nlink == 1:
                    yield Scanned(path, regular, found)
                else:
                    yield self._linked(path, regular, found, b"")
            elif form == _FOLDER:
                if device is not None and found.st_dev != device:
                    yield Scanned(path, FileType.FOLDER, found)
                    yield Skipped(path, SkipKind.MOUNT, "another filesystem is mounted here")
                    continue
                yield Scanned(path, FileType.FOLDER, found)
                heapq.heappush(contents, name + b"/")
            elif form == _SYMLINK:
                try:
                    target = os.readlink(name, dir_fd=fd)
                except OSError as error:
                    yield _refused(path, error)
                    continue
                yield self._linked(path, FileType.SYMLINK, found, target)
            else:
                what = _SPECIAL.get(form, "of an unknown kind")
                yield Skipped(path, SkipKind.SPECIAL, f"{what}, which a snapshot cannot hold")

    def _linked(self, path: bytes, kind: FileType, found: os.stat_result, target: bytes) -> Scanned:
        """An entry of an inode that may have had an earlier path."""
        if found.st_nlink == 1:
            return Scanned(path, kind, found, target)
        key = (found.st_dev, found.st_ino)
        first = self._links.get(key)
        # The inode may have been freed and taken by another file since its first path was seen.
        if first is None or (first[1].st_size, first[1].st_mtime_ns, first[1].st_mode) != (
            found.st_size,
            found.st_mtime_ns,
            found.st_mode,
        ):
            self._links[key] = (path, found, found.st_nlink - 1)
            return Scanned(path, kind, found, target)
        left = first[2] - 1
        if left:
            self._links[key] = (first[0], first[1], left)
        else:
            del self._links[key]
        return Scanned(path, FileType.HARDLINK, found, first[0])

    def _list(self, folder: OpenFolder) -> list[bytes]:
        """The names in a folder that are not excluded, sorted. Raises OSError."""
        encoding = sys.getfilesystemencoding()
        excludes = self._exclusion.excludes if self._exclusion else None
        prefix = folder.path + b"/" if folder.path else b""
        names: list[bytes] = []
        with os.scandir(folder.fd) as entries:
            if excludes is None:
                names = [e.name.encode(encoding, "surrogateescape") for e in entries]
            else:
                for entry in entries:
                    name = entry.name.encode(encoding, "surrogateescape")
                    if not excludes(prefix + name, folder=entry.is_dir(follow_symlinks=False)):
                        names.append(name)
        names.sort()
        start = bisect.bisect_left(names, OWN_TEMPORARY_PREFIX)
        end = start
        while end < len(names) and names[end].startswith(OWN_TEMPORARY_PREFIX):
            end += 1
        del names[start:end]
        return names


def scan(root: bytes, options: ScanOptions | None = None) -> Scan:
    """Begin a pass over the folder `root`; see `Scan`."""
    return Scan(root, options)


def _refused(path: bytes, error: OSError) -> Skipped:
    """What becomes of a path that the system does not give."""
    if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
        return Skipped(path, SkipKind.VANISHED, "was deleted or replaced during the scan")
    return Skipped(path, SkipKind.UNREADABLE, f"cannot be read: {error.strerror}")


def _root_error(root: bytes, error: OSError) -> BackupdError:
    if error.errno == errno.ENOENT:
        return BackupdError(
            f"the model folder {shown(root)} does not exist",
            hint="Create it, mount what it lies on, or correct `path` in the configuration.",
        )
    if error.errno == errno.ENOTDIR:
        return BackupdError(
            f"{shown(root)} is not a folder", hint="Give a folder as the model's `path`."
        )
    return BackupdError(
        f"the model folder {shown(root)} cannot be read: {error.strerror}",
        hint="Let the user that backupd runs as read it, and see that its disk is well.",
    )
