"""A chunk of numbers as byte planes, each stored raw, as one constant or as a zstd frame.

Encoder and decoder work from buffer to kept buffer; they know no disk, no clock and no tensor
names. Which layout suits bytes of unknown content is decided in `plane_probe`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import zstandard

from backupd.codec.plane_format import (
    MAX_HEADER,
    WIDTHS,
    Group,
    Method,
    Table,
    parse_table,
    table_size,
)
from backupd.codec.plane_kernels import BLOCK_BYTES, Blocks, Bytes, Words
from backupd.errors import DamagedError

Buffer: TypeAlias = bytes | bytearray | memoryview | Bytes

WORTH = 0.97  # a plane that shrinks less than this does not pay for its decoding
MIN_ELEMENTS = 64  # below this the table of planes takes what the planes give

_SAMPLE_PIECES = 8
_SAMPLE_ELEMENTS = 8 << 10
_WINDOW_LOG = 17  # a window of one zstd block: planes of numbers hold no distant matches
_MAX_WINDOW = 1 << 23  # bounds what a hostile frame can make a reader allocate


def payload_bound(plain_bytes: int) -> int:
    """The size that `out` must have to hold any payload for so many plain bytes."""
    return plain_bytes + MAX_HEADER


@dataclass(frozen=True, slots=True)
class PlanePlan:
    """What a sample of a chunk promises for one way to split it.

    `methods` has one entry a plane, lowest first; `estimate` is the share of the plain size
    that the payload is expected to take.
    """

    methods: tuple[Method, ...]
    estimate: float
    matches: bool


Transform: TypeAlias = Callable[[int, int], Words]


class PlaneEncoder:
    """Turns chunks into plane-coded payloads.

    It keeps buffers and zstd compressors, so each thread needs its own: a zstandard compressor
    that two threads share ends the interpreter with a segmentation fault.
    """

    def __init__(self) -> None:
        self.blocks = Blocks()
        self._planes: list[Bytes] = []
        # Measured on exponent planes: these parameters leave little but Huffman coding, at 2.5
        # times the speed of level 1 and 0.326 in place of 0.359 of the plane's size.
        self._numbers = _compressor(
            strategy=zstandard.STRATEGY_FAST, min_match=7, hash_log=6, window_log=_WINDOW_LOG
        )
        # Integers and opaque bytes repeat at a distance, so here matches are looked for.
        self._repeats = _compressor(compression_level=3)

    def encode(
        self, chunk: Buffer, width: int, rotate: bool, out: Buffer, *, phase: int = 0
    ) -> int:
        """Encode `chunk` into `out`; the payload's length, or 0 where it is not worth it.

        `width` (1, 2, 4 or 8 bytes) is that of an element, `rotate` says that elements are IEEE
        numbers, `phase` how many bytes come before the first whole element. `out` needs
        `payload_bound(len(chunk))` bytes. After 0 its contents are undefined.
        """
        data = as_bytes(chunk)
        if width not in WIDTHS or not 0 <= phase < width:
            raise ValueError(f"no planes of width {width} at phase {phase}")
        body = elements(data, width, phase)
        count = body.size // width
        if count < MIN_ELEMENTS:
            return 0

        def transform(begin: int, end: int) -> Words:
            words = self.blocks.words(body[begin * width : end * width], width, 0)
            return self.blocks.rotated(words, 1) if rotate else words

        plan = self.plan(transform, count, width, repeats=not rotate)
        if plan.estimate >= WORTH:
            return 0
        written = self.write(transform, data, width, phase, plan, out, rotate=rotate)
        return written if written < data.size * WORTH else 0

    def plan(self, transform: Transform, count: int, width: int, *, repeats: bool) -> PlanePlan:
        """Sample `count` transformed elements and choose a method for each plane.

        With `repeats`, planes are also tried with a compressor that looks for matches.
        """
        pieces = _sample_ranges(count)
        size = sum(end - begin for begin, end in pieces)
        planes = self._plane_buffers(width, size)
        at = 0
        for begin, end in pieces:
            words = transform(begin, end)
            for plane in range(width):
                self.blocks.take_planes(words, plane, 1, planes[plane][at : at + end - begin])
            at += end - begin
        sizes = [len(self._numbers.compress(plane.data)) for plane in planes]
        matches = False
        if repeats:
            with_matches = [len(self._repeats.compress(plane.data)) for plane in planes]
            # A search for matches is three times as slow, so it must give something.
            matches = sum(with_matches) < 0.97 * sum(sizes)
            sizes = with_matches if matches else sizes
        methods = tuple(Method.ZSTD if s < size * WORTH else Method.RAW for s in sizes)
        estimate = sum(min(s, size) for s in sizes) / (size * width)
        return PlanePlan(methods, estimate, matches)

    def write(
        self,
        transform: Transform,
        data: Bytes,
        width: int,
        phase: int,
        plan: PlanePlan,
        out: Buffer,
        *,
        rotate: bool,
        delta: bool = False,
    ) -> int:
        """Split all elements of `data` as `plan` says into `out`; the payload's length."""
        target = as_bytes(out)
        count = (data.size - phase) // width
        raw = raw_groups(plan.methods, count)
        coded = [plane for plane in range(width) if plan.methods[plane] != Method.RAW]
        buffers = self._plane_buffers(width, count)
        begin = table_size(len(raw) + len(coded))
        at = _put_ends(target, begin, data, width, phase)
        places = []
        for group in raw:
            places.append(target[at : at + group.stored_bytes])
            at += group.stored_bytes
        step = BLOCK_BYTES // width
        for low in range(0, count, step):
            high = min(low + step, count)
            words = transform(low, high)
            for group, place in zip(raw, places, strict=True):
                part = place[low * group.planes : high * group.planes]
                self.blocks.take_planes(words, group.first, group.planes, part)
            for plane in coded:
                self.blocks.take_planes(words, plane, 1, buffers[plane][low:high])
        groups = list(raw)
        compressor = self._repeats if plan.matches else self._numbers
        for plane in coded:
            group = _put_plane(target, at, buffers[plane], plane, compressor)
            groups.append(group)
            at += group.stored_bytes
        table = Table(width, rotate, delta, phase, tuple(groups)).pack()
        target[:begin] = np.frombuffer(table, np.uint8)
        return at

    def _plane_buffers(self, width: int, count: int) -> list[Bytes]:
        while len(self._planes) < width:
            self._planes.append(np.empty(0, np.uint8))
        for plane in range(width):
            if self._planes[plane].size < count:
                self._planes[plane] = np.empty(count, np.uint8)
        return [plane[:count] for plane in self._planes[:width]]


class PlaneDecoder:
    """Turns plane-coded payloads back into chunks. Not shared between threads."""

    def __init__(self) -> None:
        self._blocks = Blocks()
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
        is allocated does not depend on the payload. Raises `DamagedError`.
        """
        source, target = as_bytes(payload), as_bytes(out)
        table, at = parse_table(source.data, target.size)
        if table.delta != (base is not None):
            raise DamagedError("a chunk's payload and its header disagree on whether it has a base")
        origin = as_bytes(base) if base is not None else None
        if origin is not None and origin.size != target.size:
            raise DamagedError("a chunk and its base differ in length")
        at = _take_ends(source, at, target, table)
        body = elements(target, table.width, table.head_bytes)
        origin = None if origin is None else elements(origin, table.width, table.head_bytes)
        readers: list[_PlaneReader] = []
        for group in table.groups:
            readers.append(self._reader(group, source[at : at + group.stored_bytes]))
            at += group.stored_bytes
        step = BLOCK_BYTES
        for low in range(0, body.size, step):
            part = body[low : low + step]
            self._join(table, readers, part, None if origin is None else origin[low : low + step])
        for reader in readers:
            reader.finish()

    def _reader(self, group: Group, stored: Bytes) -> _PlaneReader:
        if group.method == Method.ZSTD:
            return _ZstdReader(group, self._zstd[group.first].stream_reader(stored.data))
        if group.method == Method.CONSTANT:
            return _ConstantReader(group, stored)
        return _RawReader(group, stored)

    def _join(
        self, table: Table, readers: Sequence[_PlaneReader], out: Bytes, base: Bytes | None
    ) -> None:
        width, blocks = table.width, self._blocks
        count = out.size // width
        words = blocks.scratch(0, width, count)
        for reader in readers:
            scratch = blocks.scratch(1, 1, count * reader.group.planes)
            data = reader.read(count, scratch)
            blocks.put_planes(words, reader.group.first, reader.group.planes, data)
        aligned = out.ctypes.data % width == 0
        result = out.view(words.dtype) if aligned else words
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


class _PlaneReader:
    """Gives a group's bytes piece by piece."""

    def __init__(self, group: Group) -> None:
        self.group = group

    def read(self, count: int, scratch: Bytes) -> Bytes:
        """The bytes of the next `count` elements; may lie in `scratch`."""
        raise NotImplementedError

    def finish(self) -> None:
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


def as_bytes(buffer: Buffer) -> Bytes:
    """`buffer` as an array of its bytes, without a copy."""
    return np.frombuffer(buffer, np.uint8)


def elements(data: Bytes, width: int, phase: int) -> Bytes:
    """The bytes of `data` that are whole elements."""
    return data[phase : phase + (data.size - phase) // width * width]


def raw_groups(methods: Sequence[Method], count: int) -> list[Group]:
    """The raw planes, neighbours joined to aligned groups of 4, 2 or 1 for speed."""
    groups: list[Group] = []
    plane = 0
    while plane < len(methods):
        if methods[plane] != Method.RAW:
            plane += 1
            continue
        planes = next(
            n
            for n in (4, 2, 1)
            if plane % n == 0 and tuple(methods[plane : plane + n]) == (Method.RAW,) * n
        )
        groups.append(Group(Method.RAW, plane, planes, count * planes))
        plane += planes
    return groups


def _compressor(**parameters: int) -> zstandard.ZstdCompressor:
    # The table holds each plane's length and the blob's seal its integrity, so a frame needs
    # neither magic number, size nor checksum.
    return zstandard.ZstdCompressor(
        compression_params=zstandard.ZstdCompressionParameters(
            format=zstandard.FORMAT_ZSTD1_MAGICLESS,
            write_content_size=False,
            write_checksum=False,
            **parameters,
        )
    )


def _sample_ranges(count: int) -> list[tuple[int, int]]:
    if count <= _SAMPLE_ELEMENTS:
        return [(0, count)]
    size = _SAMPLE_ELEMENTS // _SAMPLE_PIECES
    last = count - size
    return [(at, at + size) for at in (last * i // (_SAMPLE_PIECES - 1) for i in range(8))]


def _put_plane(
    target: Bytes, at: int, plane: Bytes, first: int, compressor: zstandard.ZstdCompressor
) -> Group:
    if plane[0] == plane[-1] and bool((plane == plane[0]).all()):
        target[at] = plane[0]
        return Group(Method.CONSTANT, first, 1, 1)
    frame = compressor.compress(plane.data)
    if len(frame) >= plane.size:
        target[at : at + plane.size] = plane
        return Group(Method.RAW, first, 1, plane.size)
    target[at : at + len(frame)] = np.frombuffer(frame, np.uint8)
    return Group(Method.ZSTD, first, 1, len(frame))


def _put_ends(target: Bytes, at: int, data: Bytes, width: int, phase: int) -> int:
    """Copy the bytes before and after the elements to `at`; where the planes begin."""
    tail = data[phase + elements(data, width, phase).size :]
    target[at : at + phase] = data[:phase]
    at += phase
    target[at : at + tail.size] = tail
    return at + tail.size


def _take_ends(source: Bytes, at: int, target: Bytes, table: Table) -> int:
    phase = table.head_bytes
    tail = target[phase + elements(target, table.width, phase).size :]
    target[:phase] = source[at : at + phase]
    at += phase
    tail[:] = source[at : at + tail.size]
    return at + tail.size
