"""The plain bytes of a base: from the checkpoint that is still on disk, else from a near target.

Nothing is downloaded for the purpose, and what is read counts only when its hash is right.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass

from backupd.capture.folders import OpenFolder, name_of
from backupd.codec.blob import Buffer
from backupd.errors import BackupdError
from backupd.operations.bases import BaseTable, Place
from backupd.repository.reader import BlobReader, kept_buffer
from backupd.repository.tree import ChunkRef

_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class BaseReader:
    """Reads bases with kept buffers and one open file. One thread's own.

    `folder_of` opens the folder of a path of the model; `reader` reads from the target, or is
    None where that is far away.
    """

    def __init__(
        self,
        bases: BaseTable,
        folder_of: Callable[[bytes], OpenFolder],
        blob_id: Callable[[memoryview], bytes],
        reader: BlobReader | None,
    ) -> None:
        self._bases = bases
        self._folder_of = folder_of
        self._blob_id = blob_id
        self._reader = reader
        self._buffer = memoryview(b"")
        self._path = b""
        self._fd = -1
        self._mtime_ns = -1

    def base(self, ref: ChunkRef) -> StoredBase:
        """A chunk as what another may be a difference from."""
        return StoredBase(self, ref)

    def peek(self, base: ChunkRef, offset: int, out: memoryview) -> bool:
        """Fill `out` from the base's byte `offset` on, unverified; false where not on disk."""
        place = self._on_disk(base)
        try:
            return place is not None and os.preadv(self._fd, [out], place.offset + offset) == len(
                out
            )
        except OSError:
            self.close()
            return False

    def read(self, base: ChunkRef) -> Buffer | None:
        """The base's bytes, good until the next call, or None where they are not to be had."""
        found = self._from_disk(base)
        if found is not None or self._reader is None:
            return found
        try:
            return self._reader.read(base.blob_id)
        except BackupdError:
            return None  # the chunk is stored plain then; check will name what is wrong

    def close(self) -> None:
        """Close the open file."""
        if self._fd >= 0:
            os.close(self._fd)
        self._fd, self._path = -1, b""

    def _on_disk(self, base: ChunkRef) -> Place | None:
        """Where a base was on disk when it was read last, with that file open; else None."""
        place = self._bases.place_of(base.blob_id)
        if place is None or place.size_bytes != base.size_bytes:
            return None
        try:
            if place.path != self._path:
                self.close()
                folder = self._folder_of(place.path)
                self._fd = os.open(name_of(place.path), _FLAGS, dir_fd=folder.fd)
                self._path = place.path
                found = os.fstat(self._fd)
                self._mtime_ns = found.st_mtime_ns if stat.S_ISREG(found.st_mode) else -1
        except (OSError, BackupdError):
            self.close()
            return None
        return place if place.mtime_ns == self._mtime_ns else None

    def _from_disk(self, base: ChunkRef) -> memoryview | None:
        place = self._on_disk(base)
        if place is None:
            return None
        if len(self._buffer) < base.size_bytes:
            self._buffer = kept_buffer(base.size_bytes)
        buffer = self._buffer[: base.size_bytes]
        try:
            if os.preadv(self._fd, [buffer], place.offset) != len(buffer):
                return None
        except OSError:
            self.close()
            return None
        return buffer if self._blob_id(buffer) == base.blob_id else None


@dataclass(frozen=True, slots=True)
class StoredBase:
    """One base of a `BaseReader`, read when it is asked for."""

    reader: BaseReader
    ref: ChunkRef

    @property
    def base_id(self) -> bytes:
        """See `backupd.codec.blob.Base`."""
        return self.ref.blob_id

    def peek(self, offset: int, out: memoryview) -> bool:
        """See `backupd.codec.blob.Base`."""
        return self.reader.peek(self.ref, offset, out)

    def read(self) -> Buffer | None:
        """See `backupd.codec.blob.Base`."""
        return self.reader.read(self.ref)
