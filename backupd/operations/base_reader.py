"""The plain bytes of a base: from the checkpoint that is still on disk, else from a near target.

Nothing is downloaded for the purpose, and what is read counts only when its hash is right.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable

from backupd.capture.folders import OpenFolder, name_of
from backupd.codec.blob import Buffer
from backupd.errors import BackupdError
from backupd.operations.bases import BaseTable
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

    def read(self, base: ChunkRef) -> Buffer | None:
        """The base's bytes, good until the next call, or None where they are not to be had."""
        place = self._bases.place_of(base.blob_id)
        if place is not None and place.size_bytes == base.size_bytes:
            found = self._from_disk(place.path, place.offset, base)
            if found is not None:
                return found
        if self._reader is None:
            return None
        try:
            return self._reader.read(base.blob_id)
        except BackupdError:
            return None  # the chunk is stored plain then; check will name what is wrong

    def close(self) -> None:
        """Close the open file."""
        if self._fd >= 0:
            os.close(self._fd)
        self._fd, self._path = -1, b""

    def _from_disk(self, path: bytes, offset: int, base: ChunkRef) -> memoryview | None:
        if len(self._buffer) < base.size_bytes:
            self._buffer = kept_buffer(base.size_bytes)
        buffer = self._buffer[: base.size_bytes]
        try:
            if path != self._path:
                self.close()
                folder = self._folder_of(path)
                self._fd = os.open(name_of(path), _FLAGS, dir_fd=folder.fd)
                self._path = path
                if not stat.S_ISREG(os.fstat(self._fd).st_mode):
                    self.close()
                    return None
            if os.preadv(self._fd, [buffer], offset) != len(buffer):
                return None
        except (OSError, BackupdError):
            self.close()
            return None
        return buffer if self._blob_id(buffer) == base.blob_id else None
