"""One file on its way back: written beside its place, renamed there when it is whole."""

from __future__ import annotations

import contextlib
import errno
import os
from types import TracebackType

from backupd.capture.folders import OpenFolder, name_of, shown
from backupd.errors import DamagedError
from backupd.operations.placement_errors import PlacementError, disk_error, in_the_way
from backupd.operations.placement_metadata import MetadataWriter
from backupd.operations.placement_system import RestoreCalls
from backupd.repository.tree import TreeEntry

Buffer = bytes | bytearray | memoryview

CREATE_FLAGS = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

SYNC_BYTES = 8 << 20
"""Files from this size on are fsynced before the rename, and all with holes (see `RestoreRoot`)."""

_RESERVE_BYTES = 64 << 20


class PlacedFile:
    """A file being restored; a context manager that abandons it unless `finish` was called.

    `fd` is open for reading and writing. Writes to separate places may come from several threads.
    """

    __slots__ = (
        "_calls",
        "_folder",
        "_inherited_acl",
        "_metadata",
        "_overwrite",
        "_sync",
        "_temporary",
        "entry",
        "fd",
    )

    def __init__(
        self,
        entry: TreeEntry,
        folder: OpenFolder,
        temporary: bytes,
        *,
        overwrite: bool,
        inherited_acl: bool,
        metadata: MetadataWriter,
        calls: RestoreCalls,
    ) -> None:
        """Create `temporary` in `folder`. Raises PlacementError."""
        self.entry = entry
        self.fd = -1
        self._folder = folder
        self._temporary = temporary
        self._overwrite = overwrite
        self._inherited_acl = inherited_acl
        self._metadata = metadata
        self._calls = calls
        size = entry.metadata.size_bytes
        sparse = bool(entry.extents) or (size > 0 and not entry.chunks and not entry.chunk_list)
        self._sync = sparse or size >= SYNC_BYTES
        mode = entry.metadata.mode & 0o777
        # Until its owner is set nobody else may read it.
        if (entry.metadata.uid, entry.metadata.gid) != (os.geteuid(), os.getegid()):
            mode &= 0o700
        try:
            self.fd = os.open(temporary, CREATE_FLAGS, mode, dir_fd=folder.fd)
            if sparse:
                os.ftruncate(self.fd, size)
            elif size >= _RESERVE_BYTES:
                calls.reserve(self.fd, size)
        except (OSError, OverflowError) as error:
            self.abandon()
            if isinstance(error, OverflowError):
                raise DamagedError(f"{shown(entry.path)}: its size is not possible") from None
            raise disk_error(entry.path, error) from None

    def __enter__(self) -> PlacedFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.abandon()

    def pwrite(self, buffer: Buffer, offset: int) -> None:
        """Write all of `buffer` at `offset` (bytes).

        Raises PlacementError, and DamagedError for what would lie beyond the entry's size.
        """
        length = len(buffer)
        if offset < 0 or offset + length > self.entry.metadata.size_bytes:
            raise DamagedError(f"{shown(self.entry.path)}: more bytes are stored than its size")
        try:
            done = os.pwrite(self.fd, buffer, offset)
            while done < length:
                done += os.pwrite(self.fd, memoryview(buffer)[done:], offset + done)
        except OSError as error:
            raise disk_error(self.entry.path, error) from None

    def finish(self) -> None:
        """Give the file its owner, attributes, mode and times, and rename it to its place.

        Raises InTheWayError where something has appeared there that may not be replaced,
        DamagedError when fewer bytes were written than the entry's size, else PlacementError.
        In each case the temporary file is removed.
        """
        entry = self.entry
        try:
            found = os.fstat(self.fd)
            if found.st_size != entry.metadata.size_bytes:
                raise DamagedError(f"{shown(entry.path)}: fewer bytes are stored than its size")
            self._metadata.apply(
                self.fd, entry.path, entry.metadata, found, inherited_acl=self._inherited_acl
            )
            if self._sync:
                os.fsync(self.fd)
            # Network filesystems tell of a full disk only here, so close comes first.
            fd, self.fd = self.fd, -1
            os.close(fd)
            self._rename()
            self._temporary = b""
        except FileExistsError:
            raise in_the_way(entry.path) from None
        except OSError as error:
            raise disk_error(entry.path, error) from None
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Remove the temporary file, if the file was not finished."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            with contextlib.suppress(OSError):
                os.close(fd)
        temporary, self._temporary = self._temporary, b""
        if temporary:
            with contextlib.suppress(OSError):
                os.unlink(temporary, dir_fd=self._folder.fd)

    def _rename(self) -> None:
        place = name_of(self.entry.path)
        folder_fd = self._folder.fd
        if not self._overwrite:
            self._calls.rename_to_free(self._temporary, place, folder_fd)
            return
        replace(self._temporary, place, folder_fd, self.entry.path)


def replace(temporary: bytes, place: bytes, folder_fd: int, path: bytes) -> None:
    """Rename over what is there; an empty folder in the way goes, a filled one is refused."""
    try:
        os.rename(temporary, place, src_dir_fd=folder_fd, dst_dir_fd=folder_fd)
        return
    except IsADirectoryError:
        pass
    try:
        os.rmdir(place, dir_fd=folder_fd)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        raise PlacementError(
            path,
            "a folder with content is in its place",
            hint="Move that folder away, or restore elsewhere with --to.",
        ) from None
    os.rename(temporary, place, src_dir_fd=folder_fd, dst_dir_fd=folder_fd)
