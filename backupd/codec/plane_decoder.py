"""A plane-coded payload back to its chunk, alone or with the base that it is a difference from.

Payloads come from disks and stores and may be damaged or hostile: everything is checked against
the plain size that the caller states, and nothing that a payload claims is allocated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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
        self._zstd = zstandard.ZstdDecompressor(
            max_window_size=_MAX_WINDOW, format=zstandard.FORMAT_ZSTD1_MAGICLESS
        )

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
        count = body.size // table.width
        parts: list[_Part] = []
        for number, group in enumerate(table.groups):
            stored = source[at : at + group.stored_bytes]
            if group.method == Method.ZSTD:
                stored = self._decompress(stored, self._buffer(number, count * group.planes))
            parts.append(_Part(group, stored))
            at += group.stored_bytes
        if table.ordered and origin is not None:
            self._put_in_order(table, parts, origin)
        # From the highest plane down, as a word is put together by shifts to the left.
        parts.sort(key=lambda part: part.group.first, reverse=True)
        step = BLOCK_BYTES // table.width
        for low in range(0, count, step):
            span = slice(low * table.width, (low + step) * table.width)
            self._join(table, parts, low, body[span], None if origin is None else origin[span])

    def _decompress(self, stored: Bytes, out: Bytes) -> Bytes:
        """A zstd frame into `out`, which it has to fill."""
        stream = self._zstd.stream_reader(stored.data)
        view, at = out.data, 0
        try:
            while at < len(view):
                got = stream.readinto(view[at:])
                if not got:
                    raise DamagedError("a plane of a chunk ends before its elements do")
                at += got
            if stream.read(1):
                raise DamagedError("a plane of a chunk is longer than its elements")
        except zstandard.ZstdError as error:
            raise DamagedError(f"a plane of a chunk does not decompress: {error}") from None
        return out

    def _put_in_order(self, table: Table, parts: Sequence[_Part], origin: Bytes) -> None:
        """Put the zstd planes back into the elements' own order."""
        width, count = table.width, origin.size // table.width
        keys = self._buffer(max(WIDTHS), count)
        step = BLOCK_BYTES // width
        for low in range(0, count, step):
            high = min(low + step, count)
            words = self._blocks.words(origin[low * width : high * width], width, 0)
            self._blocks.take_exponents(words, keys[low:high])
        planes: list[Bytes] = []
        for part in parts:
            if part.group.method != Method.ZSTD:
                continue
            if part.group.planes != 1:
                raise DamagedError("a plane-coded chunk has an order for a group of planes")
            planes.append(part.data)
        self._order.restore(keys, planes)

    def _join(
        self, table: Table, parts: Sequence[_Part], low: int, out: Bytes, base: Bytes | None
    ) -> None:
        """Put one block of elements together into `out`, from the `low`th element of each part."""
        width, blocks = table.width, self._blocks
        count = out.size // width
        words = blocks.scratch(0, width, count)
        for number, part in enumerate(parts):
            first = number == 0
            group = part.group
            if group.method == Method.CONSTANT:
                blocks.append_constant(words, group.planes, part.data, first=first)
                continue
            data = part.data[low * group.planes : (low + count) * group.planes]
            blocks.append_planes(words, group.planes, data, first=first)
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


@dataclass(slots=True)
class _Part:
    """A group and its words, of a constant the one that all elements share."""

    group: Group
    data: Bytes


def _take_ends(source: Bytes, at: int, target: Bytes, table: Table) -> int:
    phase = table.head_bytes
    tail = target[phase + elements(target, table.width, phase).size :]
    target[:phase] = source[at : at + phase]
    at += phase
    tail[:] = source[at : at + tail.size]
    return at + tail.size
