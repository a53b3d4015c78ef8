"""The disk side of a restore: puts entries of a snapshot below one root, and nowhere else.

What is put where is decided by the caller; what a snapshot's entries say is not trusted here.
"""

from __future__ import annotations

import contextlib
import enum
import errno
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import TypeVar

from backupd.capture.folders import (
    FolderTree,
    OpenFolder,
    name_of,
    parent_of,
    shown,
)
from backupd.errors import BackupdError
from backupd.operations.placement_errors import (
    InTheWayError,
    PlacementError,
    UnsafeEntryError,
    disk_error,
    placing,
)
from backupd.operations.placement_file import PlacedFile, replace
from backupd.operations.placement_folders import RestoreFolder, RestoreFolders
from backupd.operations.placement_metadata import MetadataWriter, Warn
from backupd.operations.placement_system import RestoreCalls
from backupd.repository.tree import FileType, Metadata, TreeEntry

_NAME_BYTES = 255  # NAME_MAX of every Linux filesystem
_GRAINS_NS = (100, 1_000, 1_000_000, 1_000_000_000, 2_000_000_000)


_IS_TYPE: dict[FileType, Callable[[int], bool]] = {
    FileType.FILE: stat.S_ISREG,
    FileType.FOLDER: stat.S_ISDIR,
    FileType.SYMLINK: stat.S_ISLNK,
    FileType.HARDLINK: lambda mode: not stat.S_ISDIR(mode),
}


class Placement(enum.Enum):
    """What is where an entry belongs."""

    CREATE = "create"
    """Nothing."""
    SAME = "same"
    """What the entry says: type, size and mtime, or the link's target."""
    DIFFERS = "differs"
    """The same type with other content; replaced only with `overwrite`."""
    BLOCKED = "blocked"
    """Another type, or a file or symlink where one of its folders belongs."""


def checked_path(path: bytes) -> bytes:
    """`path` if it names a place below a root. Raises UnsafeEntryError."""
    # The plain case, in a few native searches: no name begins with a dot, is empty or too long.
    if (
        len(path) <= _NAME_BYTES
        and b"/." not in path
        and b"//" not in path
        and b"\0" not in path
        and not path.startswith((b".", b"/"))
        and not path.endswith(b"/")
    ):
        return path
    if b"\0" in path or path.startswith(b"/"):
        raise UnsafeEntryError(path, "the snapshot names a place outside of its root")
    for name in path.split(b"/"):
        if name in (b"", b".", b".."):
            raise UnsafeEntryError(path, "the snapshot names a place outside of its root")
        if len(name) > _NAME_BYTES:
            raise UnsafeEntryError(path, f"a name in it is longer than {_NAME_BYTES} bytes")
    return path


class RestoreRoot:
    """A folder that a restore writes to; a context manager. Safe for several threads.

    Each folder is opened component by component without following symlinks and kept open while
    it is used, so neither hostile entries nor a swap meanwhile lead outside. What is given to
    `make_folder` gets its mode and times in `finish_folders`.

    What is durable when: files from 8 MiB on and those with holes are fsynced before they are
    renamed to their place; smaller ones are not, since one fsync each would cost more than all
    else, and ext4, xfs and btrfs log a file's size only after its data, so that one cut off by a
    power loss has another size and is not taken for right by the next run. `finish_folders` ends
    with one syncfs(2), after which everything is on the disk.
    """

    def __init__(
        self,
        root: bytes,
        *,
        overwrite: bool = False,
        numeric_owner: bool = False,
        claim_root: bool = False,
        warn: Warn = lambda path, reason: None,
    ) -> None:
        """Open `root` (absolute; created with its parents where absent).

        `overwrite` replaces what differs. `claim_root` gives the root folder itself the
        snapshot's mode, owner and times also where it held something before; without, a restore
        into the home folder would change who may read it. `warn(path, reason)` is told of
        metadata that could not be set.
        Raises BackupdError.
        """
        self.root = root
        self.overwrite = overwrite
        self._metadata = MetadataWriter(numeric_owner=numeric_owner, warn=warn)
        self._warn = warn
        self._calls = RestoreCalls()
        self._entries: list[tuple[bytes, Metadata]] = []
        try:
            self._folders = RestoreFolders(root, overwrite=overwrite)
        except OSError as error:
            failed = disk_error(b"", error)
            raise BackupdError(
                f"cannot restore to {shown(root)}: {error.strerror}", hint=failed.hint
            ) from None
        self._root_is_ours = claim_root or self._folders.is_ours

    def __enter__(self) -> RestoreRoot:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._folders.close()

    def classify(self, entry: TreeEntry) -> Placement:
        """What is where the entry belongs. Raises UnsafeEntryError and PlacementError."""
        return _classify(self._folders.tree, entry)

    def open_existing(self, entry: TreeEntry) -> int:
        """A descriptor to read what `classify` found the same. Raises PlacementError."""
        path = checked_path(entry.path)
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        with placing(path):
            folder = self._folders.tree.folder(parent_of(path))
            return os.open(name_of(path), flags, dir_fd=folder.fd)

    def make_folder(self, entry: TreeEntry) -> None:
        """Create the folder, or take the one that is there. Raises PlacementError."""
        path = checked_path(entry.path)
        if path:
            self._folders.make(path)
        elif not self._root_is_ours:
            return
        self._entries.append((path, entry.metadata))

    def begin_file(self, entry: TreeEntry) -> PlacedFile:
        """Start a FILE beside its place; to be called for what `classify` did not find the same.

        Raises PlacementError.
        """
        folder = self._folders.parent(_named(entry))
        return PlacedFile(
            entry,
            folder,
            self._folders.temporary(),
            overwrite=self.overwrite,
            inherited_acl=folder.inherited_acl,
            metadata=self._metadata,
            calls=self._calls,
        )

    def link_from(self, entry: TreeEntry, fd: int) -> None:
        """Give the open file `fd` of the same filesystem the entry's path as another name.

        Raises OSError, PlacementError.
        """
        folder = self._folders.parent(_named(entry))
        # The descriptor's own name, so that what is linked is what was looked at (linkat(2)).
        os.link(
            b"/proc/self/fd/%d" % fd,
            name_of(entry.path),
            dst_dir_fd=folder.fd,
            follow_symlinks=True,
        )

    def make_symlink(self, entry: TreeEntry) -> None:
        """Create the symlink, which may point anywhere: it is never followed here.

        Raises PlacementError.
        """
        path = _named(entry)
        if not entry.link or b"\0" in entry.link:
            raise UnsafeEntryError(path, "the snapshot gives a symlink without a valid target")
        folder = self._folders.parent(path)
        name = name_of(path)
        with placing(path):
            try:
                os.symlink(entry.link, name, dir_fd=folder.fd)
                self._metadata.apply_to_symlink(name, folder.fd, path, entry.metadata)
            except FileExistsError:
                if not self.overwrite:
                    raise
                with self._replacing(folder, path) as temporary:
                    os.symlink(entry.link, temporary, dir_fd=folder.fd)
                    self._metadata.apply_to_symlink(temporary, folder.fd, path, entry.metadata)

    def make_hardlink(self, entry: TreeEntry) -> None:
        """Link the entry's path to the file at `entry.link`, which must be restored already.

        Raises PlacementError, also where that file is not what the entry says (its own restore
        failed, and another file is there).
        """
        path = _named(entry)
        source = checked_path(entry.link)
        found = _lstat(self._folders.tree, source)
        if found is None or not _is_what_it_says(entry.metadata, found):
            raise PlacementError(
                path, f"the file it is a hard link to, {shown(source)}, was not restored"
            )
        folder = self._folders.parent(path)
        name = name_of(path)
        with placing(path):
            first = self._folders.tree.folder(parent_of(source))
            try:
                _link(name_of(source), first, name, folder)
            except FileExistsError:
                there = os.stat(name, dir_fd=folder.fd, follow_symlinks=False)
                if os.path.samestat(there, found):
                    return
                if not self.overwrite:
                    raise
                with self._replacing(folder, path) as temporary:
                    _link(name_of(source), first, temporary, folder)

    def finish_folders(self) -> None:
        """Give the folders their modes, owners and times, deepest first; then sync the disk.

        The last call of a restore. Raises PlacementError when the disk cannot keep what was
        written; a folder that is gone meanwhile is told to `warn`.
        """
        tree = self._folders.tree
        self._folders.settle(frozenset(path for path, _ in self._entries))
        self._entries.sort(key=lambda item: item[0], reverse=True)
        for path, metadata in self._entries:
            try:
                folder = tree.folder(path)
                self._metadata.apply(folder.fd, path, metadata, os.fstat(folder.fd), is_new=False)
            except OSError as error:
                failed = disk_error(path, error)
                if failed.fatal:
                    raise failed from None
                self._warn(path, failed.reason)
        self._entries.clear()
        with placing(b""):
            self._calls.sync_filesystem(tree.root.fd)

    @contextlib.contextmanager
    def _replacing(self, folder: RestoreFolder, path: bytes) -> Iterator[bytes]:
        """A temporary name for what is then renamed over `path`."""
        temporary = self._folders.temporary()
        try:
            yield temporary
            replace(temporary, name_of(path), folder.fd, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary, dir_fd=folder.fd)
            raise


def _named(entry: TreeEntry) -> bytes:
    path = checked_path(entry.path)
    if not path:
        raise UnsafeEntryError(path, "the snapshot's root is not a folder")
    return path


def _link(source: bytes, source_folder: OpenFolder, name: bytes, folder: OpenFolder) -> None:
    os.link(
        source,
        name,
        src_dir_fd=source_folder.fd,
        dst_dir_fd=folder.fd,
        follow_symlinks=False,
    )


def _is_what_it_says(metadata: Metadata, found: os.stat_result) -> bool:
    """Whether a file or symlink has the size and mtime of its entry."""
    if stat.S_ISDIR(found.st_mode):
        return False
    if stat.S_ISREG(found.st_mode) and found.st_size != metadata.size_bytes:
        return False
    have, want = found.st_mtime_ns, metadata.mtime_ns
    # Filesystems keep times in grains (FAT 2 s, SMB 100 ns) and cut off what is finer.
    return have == want or any(have == want - want % grain for grain in _GRAINS_NS)


FolderT = TypeVar("FolderT", bound=OpenFolder)


def plan_placement(root: bytes, entries: Iterable[TreeEntry]) -> Iterator[Placement]:
    """What `RestoreRoot.classify` would answer for each entry, with nothing changed (dry run).

    Raises UnsafeEntryError and PlacementError.
    """
    try:
        tree = FolderTree(root, OpenFolder)
    except FileNotFoundError:
        tree = None
    except OSError as error:
        raise disk_error(b"", error) from None
    for entry in entries:
        if tree is None:
            checked_path(entry.path)
            yield Placement.CREATE
        else:
            yield _classify(tree, entry)


def _classify(tree: FolderTree[FolderT], entry: TreeEntry) -> Placement:
    path = checked_path(entry.path)
    if not path:
        return Placement.SAME if entry.type is FileType.FOLDER else Placement.BLOCKED
    try:
        folder = tree.folder(parent_of(path))
        if isinstance(folder, RestoreFolder) and folder.fresh:
            return Placement.CREATE
        found = os.stat(name_of(path), dir_fd=folder.fd, follow_symlinks=False)
        mode = found.st_mode
        if not _IS_TYPE[entry.type](mode):
            return Placement.BLOCKED
        if entry.type is FileType.FILE:
            same = _is_what_it_says(entry.metadata, found)
        elif entry.type is FileType.FOLDER:
            same = True
        elif entry.type is FileType.SYMLINK:
            same = os.readlink(name_of(path), dir_fd=folder.fd) == entry.link
        else:
            source = checked_path(entry.link)
            first = _lstat(tree, source)
            same = first is not None and os.path.samestat(first, found)
    except FileNotFoundError:
        return Placement.CREATE
    except OSError as error:
        if error.errno in (errno.ENOTDIR, errno.ELOOP):
            return Placement.BLOCKED
        raise disk_error(path, error) from None
    return Placement.SAME if same else Placement.DIFFERS


def _lstat(tree: FolderTree[FolderT], path: bytes) -> os.stat_result | None:
    """lstat(2) below the tree's root, or None where nothing is there."""
    try:
        folder = tree.folder(parent_of(path))
        return os.stat(name_of(path), dir_fd=folder.fd, follow_symlinks=False)
    except OSError:
        return None


__all__ = [
    "InTheWayError",
    "PlacedFile",
    "Placement",
    "PlacementError",
    "RestoreRoot",
    "UnsafeEntryError",
    "checked_path",
    "plan_placement",
]
