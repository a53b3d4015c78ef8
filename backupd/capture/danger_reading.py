"""How a file is read that is looked through for dangers: as little of it as tells, and bounded."""

from __future__ import annotations

import io
from collections.abc import Callable

from backupd.capture.containers.bounded import ReadAt

_MOST_READS = 1_000_000  # one opcode takes one or more; each costs some 110 bytes of memory
_MOST_PICKLE_BYTES = 16 << 20
_SKIPPED_FROM = 64 << 10  # a longer argument is data, and is not read


class TooLongError(Exception):
    """There is more to look through than is looked through."""


class _Long(bytes):
    """Bytes that were not read: their length is right, and nothing else of them."""

    claimed = 0

    def __len__(self) -> int:
        return self.claimed


class PickleWindow(io.RawIOBase):
    """A pickle for `pickletools.genops`: long arguments are passed over, the rest is bounded."""

    def __init__(self, read_at: ReadAt, size: int, check_time: Callable[[], None]) -> None:
        self.too_long = False
        self._read_at = read_at
        self._size = size
        self._check_time = check_time
        self._at = 0
        self._reads = 0
        self._taken = 0
        self._buffer = b""
        self._start = 0

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = 0) -> int:
        base = (0, self._at, self._size)[whence]
        self._at = max(0, base + offset)
        return self._at

    def read(self, count: int = -1) -> bytes:
        self._count()
        left = max(0, self._size - self._at)
        if count < 0 or count > left:
            count = left
        if count >= _SKIPPED_FROM:
            self._at += count
            passed = _Long()
            passed.claimed = count
            return passed
        begin = self._at - self._start
        if not 0 <= begin <= begin + count <= len(self._buffer):
            self._fill()
            begin = 0
        self._at += count
        self._take(count)
        return self._buffer[begin : begin + count]

    def readline(self, limit: int | None = -1) -> bytes:
        """A line of at most 64 KiB; an opcode's line is a name or a number."""
        self._count()
        begin = self._at - self._start
        if not 0 <= begin < len(self._buffer) or b"\n" not in self._buffer[begin:]:
            self._fill()
            begin = 0
        end = self._buffer.find(b"\n", begin)
        line = self._buffer[begin : end + 1] if end >= 0 else self._buffer[begin:]
        self._at += len(line)
        self._take(len(line))
        return line

    def _fill(self) -> None:
        self._start = self._at
        self._buffer = self._read_at(self._at, min(_SKIPPED_FROM, max(0, self._size - self._at)))

    def _take(self, count: int) -> None:
        self._taken += count
        if self._taken > _MOST_PICKLE_BYTES:
            self._stop()

    def _count(self) -> None:
        self._reads += 1
        if self._reads > _MOST_READS:
            self._stop()
        if not self._reads % 4096:
            try:
                self._check_time()
            except TooLongError:
                self._stop()

    def _stop(self) -> None:
        # genops' caller takes any error for the end of the pickle, so it is remembered.
        self.too_long = True
        self._size = self._at
        raise TooLongError


class FileSource(io.RawIOBase):
    """A file for `zipfile`."""

    def __init__(self, read_at: ReadAt, size: int) -> None:
        self._read_at = read_at
        self._size = size
        self._at = 0

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = max(0, (0, self._at, self._size)[whence] + offset)
        return self._at

    def read(self, count: int = -1) -> bytes:
        left = max(0, self._size - self._at)
        count = left if count < 0 else min(count, left)
        data = self._read_at(self._at, count) if count else b""
        self._at += len(data)
        return data
