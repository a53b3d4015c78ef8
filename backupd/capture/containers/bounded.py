"""Reading a file of unknown honesty: every length is checked before it is read.

What a parser may read in all is bounded here; what it makes of it is bounded in the parser.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from typing import TypeAlias

ReadAt: TypeAlias = Callable[[int, int], bytes]
"""`read_at(offset, length)`: the bytes there, fewer only where the file ends."""

READ_BUDGET_BYTES = 128 << 20
"""What one look at one file may read; a zip of 100,000 arrays needs 70 MB of it."""

_READ_AHEAD_BYTES = 256 << 10
_U64 = struct.Struct("<Q")


class MalformedError(Exception):
    """The file is not what its first bytes promise. Never leaves this package."""


class TruncatedError(MalformedError):
    """The file ends before something that it says it holds."""


def read_at_descriptor(fd: int) -> ReadAt:
    """Return a `ReadAt` of the open file `fd`, which stays the caller's. It raises OSError."""

    def read_at(offset: int, length: int) -> bytes:
        data = os.pread(fd, length, offset)
        if len(data) == length or not data:
            return data
        parts = [data]
        got = len(data)
        while got < length and (data := os.pread(fd, length - got, offset + got)):
            parts.append(data)
            got += len(data)
        return b"".join(parts)

    return read_at


class LimitError(MalformedError):
    """Telling would take more reading, or more memory, than one look at one file may cost."""


class BoundedFile:
    """A file of `size` bytes of which no more than `READ_BUDGET_BYTES` are read."""

    __slots__ = ("_budget", "_read_at", "size")

    def __init__(self, read_at: ReadAt, size: int) -> None:
        self._read_at = read_at
        self._budget = READ_BUDGET_BYTES
        self.size = size

    def read(self, offset: int, length: int) -> bytes:
        """Return exactly `length` bytes from `offset`.

        Raises TruncatedError where the file does not hold them, before anything is allocated,
        and LimitError where the budget is spent.
        """
        if offset < 0 or length < 0 or offset + length > self.size:
            raise TruncatedError(f"{length} bytes at {offset} of a file of {self.size}")
        if length > self._budget:
            raise LimitError("needs more reading than one look may cost")
        self._budget -= length
        data = self._read_at(offset, length)
        if len(data) != length:
            raise TruncatedError("became shorter while it was read")
        return data


class Cursor:
    """Reads a `BoundedFile` from `position` on, little-endian, a quarter MiB at a time."""

    __slots__ = ("_buffer", "_file", "_start", "position")

    def __init__(self, file: BoundedFile, position: int) -> None:
        self._file = file
        self._buffer = b""
        self._start = position
        self.position = position

    def take(self, length: int) -> bytes:
        """Return the next `length` bytes. Raises as `BoundedFile.read` does."""
        inside = self.position - self._start
        if not 0 <= inside <= len(self._buffer) - length:
            ahead = min(_READ_AHEAD_BYTES, self._file.size - self.position)
            self._buffer = self._file.read(self.position, max(length, ahead))
            self._start = self.position
            inside = 0
        self.position += length
        return self._buffer[inside : inside + length]

    def skip(self, length: int) -> None:
        """Step over `length` bytes without reading them. Raises TruncatedError past the end."""
        if length > self._file.size - self.position:
            raise TruncatedError(f"{length} bytes at {self.position} of a file")
        self.position += length

    def unpack(self, form: struct.Struct) -> tuple[int, ...]:
        """Return the next integers as `form` lays them out."""
        return form.unpack(self.take(form.size))

    def skip_strings(self, count: int) -> None:
        """Step over `count` strings, each behind its length as 64 bits.

        Within the read-ahead this walks the buffer itself: a tokenizer has 250,000 of them.
        """
        unpack = _U64.unpack_from
        while count:
            (length,) = _U64.unpack(self.take(8))
            self.skip(length)
            count -= 1
            buffer, end = self._buffer, len(self._buffer) - 8
            inside = self.position - self._start
            while count and inside <= end:
                (length,) = unpack(buffer, inside)
                if length > end - inside:
                    break
                inside += 8 + length
                count -= 1
            self.position = max(self.position, self._start + inside)
