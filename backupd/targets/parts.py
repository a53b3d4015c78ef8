"""Several buffers read as one file, for clients that want a file to upload from."""

from __future__ import annotations

import io
from collections.abc import Sequence

from backupd.targets.base import Buffer

# http.client asks for 16 KiB at a time; a system call and a TLS record loop for each is dear.
_STEP_BYTES = 256 << 10


class PartsReader(io.RawIOBase):
    """The bytes `start` to `stop` of the concatenation of `parts`, without joining or copying.

    `read(n)` gives a view of one part: fewer bytes than asked for at the end of a part, and up to
    256 KiB even where fewer were asked for, which HTTP clients write out as they get it.
    """

    def __init__(self, parts: Sequence[Buffer], start: int = 0, stop: int | None = None) -> None:
        super().__init__()
        views: list[memoryview] = []
        position = 0
        for part in parts:
            view = memoryview(part).cast("B")
            end = position + view.nbytes if stop is None else min(position + view.nbytes, stop)
            if end > max(position, start):
                views.append(view[max(start - position, 0) : end - position])
            position += view.nbytes
        self._views = views
        self._position = self._index = self._within = 0
        self._size = sum(view.nbytes for view in views)
        self.seek(0)

    def __len__(self) -> int:
        return self._size

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True: an upload that is sent again starts over."""
        return True

    def tell(self) -> int:
        """The position in bytes from `start`."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """See `io.IOBase.seek`."""
        base = {
            io.SEEK_SET: 0,
            io.SEEK_CUR: self._position if whence else 0,
            io.SEEK_END: self._size,
        }
        self._position = rest = max(0, min(base[whence] + offset, self._size))
        self._index = 0
        while self._index < len(self._views) and rest >= self._views[self._index].nbytes:
            rest -= self._views[self._index].nbytes
            self._index += 1
        self._within = rest
        return self._position

    def read(self, size: int = -1) -> bytes:
        """The next bytes, as a view of one part; empty at the end."""
        if self._index == len(self._views):
            return b""
        view = self._views[self._index]
        limit = view.nbytes if size < 0 else max(size, _STEP_BYTES)
        found = view[self._within : self._within + limit]
        self._position += found.nbytes
        self._within += found.nbytes
        if self._within == view.nbytes:
            self._index += 1
            self._within = 0
        # A view has all that is asked of bytes here: a length, slices and the buffer protocol.
        return found  # type: ignore[return-value]
