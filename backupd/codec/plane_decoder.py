"""A plane-coded payload back to its chunk, alone or with the base that it is a difference from.

Payloads come from disks and stores and may be damaged or hostile: everything is checked against
the plain size that the caller states, and nothing that a payload claims is allocated.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence

import numpy as np
import zstandard

from backupd.codec.plane_format import WIDTHS, Group, Method, Table, parse_table
from backupd.codec.plane_kernels import (
    BLOCK_BYTES,
    Blocks,
    Buffer,
    Bytes,
    Words,
    as_bytes,
    elements,
)
from backupd.codec.plane_order import PlaneOrder
from backupd.errors import DamagedError

_MAX_WINDOW = 1 << 23  # bounds what a hostile frame can make a reader allocate


class PlaneDecoder:
    """Turns plane-coded payloads back into chunks. Keeps buffers: one per thread."""

    def __init__(self) -> None:
        self._blocks = Blocks()
        self._order = PlaneOrder()
        self._kept: list[Bytes] = []
        # All planes of a chunk are read side by side, and a decompressor has one state.
        self._zstd = [
            zstandard.ZstdDecompressor(
                max_window_size=_MAX_WINDOW, format=zstandard.FORMAT_ZSTD1_MAGICLESS
            )
            for _ in range(max(WIDTHS))
        ]

    def decode(self, payload: Buffer, out: Buffer, *, base: Buffer | None = None) -> None:
        """Fill `out`, whose size is the chunk's plain size, from `payload`.

        A payload that is a delta needs the `base` it was made against, of the same size. What
        is kept is at most the plain size and one plane of it. Raises `DamagedError`.
        """
        source, target = as_bytes(payload), as_bytes(out)
        table, at = parse_table(source.data, target.size)
        if table.delta != (base is not None):
            raise DamagedError("a chunk's payload and its header disagree on whether it has a base")
        origin = None if base is None else as_bytes(base)
        if origin is not None:
            if origin.size != target.size:
                raise DamagedError("a chunk and its base differ in length")
            origin = elements(origin, table.width, table.head_bytes)
        at = _take_ends(source, at, target, table)
        body = elements(target, table.width, table.head_bytes)
        readers: list[_PlaneReader] = []
        for group in table.groups:
            readers.append(self._reader(group, source[at : at + group.stored_bytes]))
            at += group.stored_bytes
        if table.ordered and origin is not None:
            readers = self._in_order(table, readers, origin)
        for low in range(0, body.size, BLOCK_BYTES):
            high = low + BLOCK_BYTES
            self._join(table, readers, body[low:high], None if origin is None else origin[low:high])
        for reader in readers:
            reader.finish()

    def _reader(self, group: Group, stored: Bytes) -> _PlaneReader:
        if group.method == Method.ZSTD:
            return _ZstdReader(group, self._zstd[group.first].stream_reader(stored.data))
        if group.method == Method.CONSTANT:
            return _ConstantReader(group, stored)
        return _RawReader(group, stored)

    def _in_order(
        self, table: Table, readers: Sequence[_PlaneReader], origin: Bytes
    ) -> list[_PlaneReader]:
        """Readers of the elements' own order, with the zstd planes decompressed and put back."""
        width, count = table.width, origin.size // table.width
        keys = self._buffer(0, count)
        step = BLOCK_BYTES // width
        for low in range(0, count, step):
            high = min(low + step, count)
            words = self._blocks.words(origin[low * width : high * width], width, 0)
            self._blocks.take_exponents(words, keys[low:high])
        result: list[_PlaneReader] = []
        planes: list[Bytes] = []
        for reader in readers:
            group = reader.group
            if group.method != Method.ZSTD:
                result.append(reader)
                continue
            if group.planes != 1:
                raise DamagedError("a plane-coded chunk has an order for a group of planes")
            plane = self._buffer(1 + len(planes), count)
            reader.read(count, plane)
            reader.finish()
            planes.append(plane)
            result.append(_RawReader(group, plane))
        self._order.restore(keys, planes)
        return result

    def _join(
        self, table: Table, readers: Sequence[_PlaneReader], out: Bytes, base: Bytes | None
    ) -> None:
        """Put one block of elements together into `out`."""
        width, blocks = table.width, self._blocks
        count = out.size // width
        words = blocks.scratch(0, width, count)
        for reader in readers:
            scratch = blocks.scratch(1, 1, count * reader.group.planes)
            data = reader.read(count, scratch)
            blocks.put_planes(words, reader.group.first, reader.group.planes, data)
        result: Words = out.view(words.dtype)
        aligned = result.flags.aligned
        if not aligned:
            result = words
        if base is not None:
            origin = blocks.words(base, width, 1)
            if table.rotate:
                blocks.add_difference(words, blocks.rotated(origin, 2), words)
            else:
                blocks.add_difference(words, origin, result)
        if table.rotate:
            blocks.rotate_back(words, result)
        elif base is None and aligned:
            np.copyto(result, words)
        if not aligned:
            np.copyto(out, words.view(np.uint8))

    def _buffer(self, index: int, size: int) -> Bytes:
        while len(self._kept) <= index:
            self._kept.append(np.empty(0, np.uint8))
        if self._kept[index].size < size:
            self._kept[index] = np.empty(size, np.uint8)
        return self._kept[index][:size]


class _PlaneReader(abc.ABC):
    """Gives a group's bytes piece by piece."""

    def __init__(self, group: Group) -> None:
        self.group = group

    @abc.abstractmethod
    def read(self, count: int, scratch: Bytes) -> Bytes:
        """The bytes of the next `count` elements; may lie in `scratch`."""

    def finish(self) -> None:  # noqa: B027 - only one of the methods has anything left over
        """Raise `DamagedError` where more is stored than the elements need."""


class _RawReader(_PlaneReader):
    def __init__(self, group: Group, stored: Bytes) -> None:
        super().__init__(group)
        self._stored = stored
        self._at = 0

    def read(self, count: int, scratch: Bytes) -> Bytes:
        begin, self._at = self._at, self._at + count * self.group.planes
        return self._stored[begin : self._at]


class _ConstantReader(_PlaneReader):
    def __init__(self, group: Group, stored: Bytes) -> None:
        super().__init__(group)
        self._stored = stored

    def read(self, count: int, scratch: Bytes) -> Bytes:
        scratch.reshape(count, self.group.planes)[:] = self._stored
        return scratch


class _ZstdReader(_PlaneReader):
    def __init__(self, group: Group, stream: zstandard.ZstdDecompressionReader) -> None:
        super().__init__(group)
        self._stream = stream

    def read(self, count: int, scratch: Bytes) -> Bytes:
        view, at = scratch.data, 0
        try:
            while at < len(view):
                got = self._stream.readinto(view[at:])
                if not got:
                    raise DamagedError("a plane of a chunk ends before its elements do")
                at += got
        except zstandard.ZstdError as error:
            raise DamagedError(f"a plane of a chunk does not decompress: {error}") from None
        return scratch

    def finish(self) -> None:
        try:
            more = self._stream.read(1)
        except zstandard.ZstdError as error:
            raise DamagedError(f"a plane of a chunk does not decompress: {error}") from None
        if more:
            raise DamagedError("a plane of a chunk is longer than its elements")


def _take_ends(source: Bytes, at: int, target: Bytes, table: Table) -> int:
    phase = table.head_bytes
    tail = target[phase + elements(target, table.width, phase).size :]
    target[:phase] = source[at : at + phase]
    at += phase
    tail[:] = source[at : at + tail.size]
    return at + tail.size
