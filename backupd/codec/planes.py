"""A chunk of numbers as byte planes, each stored raw, as one constant or as a zstd frame.

The encoder works from buffer to kept buffer; it knows no disk, no clock and no tensor names.
Which layout suits bytes of unknown content is decided in `plane_probe`; when a base pays, in
`delta`; the way back is `plane_decoder`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import zstandard

from backupd.codec.entropy import HuffmanCompressor
from backupd.codec.plane_format import MAX_HEADER, WIDTHS, Group, Method, Table, table_size
from backupd.codec.plane_kernels import BLOCK_BYTES, Blocks, Buffer, Bytes, as_bytes
from backupd.codec.plane_order import RANKS, PlaneOrder
from backupd.codec.plane_source import Source

WORTH = 0.97  # a plane that shrinks less than this does not pay for its decoding
MIN_ELEMENTS = 64  # below this the table of planes takes what the planes give

_SAMPLE_PIECES = 8
_SAMPLE_ELEMENTS = 8 << 10
_WINDOW_LOG = 17  # a window of one zstd block: planes of numbers hold no distant matches
_WORTH_A_SEARCH = 0.97  # a search for matches takes three times as long as Huffman coding alone
# The quick search that numbers get takes half again as long as Huffman coding alone.
_WORTH_A_QUICK_SEARCH = 0.99
# What an order by two halves of a sample must save of the payload: it takes half of a
# difference's speed, both ways.
_WORTH_AN_ORDER = 0.03
_MIN_ORDERED = 32 << 10  # elements; below, the Huffman tables of eight slices take the gain


def payload_bound(plain_bytes: int) -> int:
    """The size that `out` must have to hold any payload for so many plain bytes."""
    return plain_bytes + MAX_HEADER


@dataclass(frozen=True, slots=True)
class PlanePlan:
    """What a sample of a source promises.

    `methods` has one entry a plane, lowest first; `estimate` is the share of the plain size
    that the payload is expected to take; `matches` asks for a search for repeats, `ordered` for
    the order of the base's exponents. `huffman` are the planes in which nothing is to be searched.
    """

    methods: tuple[Method, ...]
    estimate: float
    matches: bool
    ordered: bool
    huffman: frozenset[int] = frozenset()


class PlaneEncoder:
    """Turns chunks into plane-coded payloads.

    It keeps buffers and zstd compressors, so each thread needs its own: a zstandard compressor
    that two threads share ends the interpreter with a segmentation fault.
    """

    def __init__(self) -> None:
        self.blocks = Blocks()
        self._order = PlaneOrder()
        self._kept: list[Bytes] = []
        self._pieces = np.empty(_SAMPLE_ELEMENTS * max(WIDTHS), np.uint8)
        self._base_pieces = np.empty_like(self._pieces)
        # Measured on exponent planes: these parameters leave little but Huffman coding, at 2.5
        # times the speed of level 1 and 0.326 in place of 0.359 of the plane's size.
        quick = {"min_match": 7, "hash_log": 6, "window_log": _WINDOW_LOG}
        self._numbers = _compressor(strategy=zstandard.STRATEGY_FAST, **quick)
        self._huffman = HuffmanCompressor.made(**quick)
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
        source = self.source(chunk, width, rotate, phase)
        if source is None:
            return 0
        plan = self.plan(source)
        return self.write(source, plan, out) if plan.estimate < WORTH else 0

    def source(self, chunk: Buffer, width: int, numbers: bool, phase: int) -> Source | None:
        """The elements of `chunk` as they are best split alone; None where they are too few."""
        source = Source(self.blocks, as_bytes(chunk), width, numbers, phase)
        if source.count < MIN_ELEMENTS:
            return None
        return source.as_signed_as(self.sample(source)) if source.rotate else source

    def plan(self, source: Source) -> PlanePlan:
        """Sample `source` and choose a method for each plane."""
        return self.plan_by(self.sample(source), source.count)

    def sample(self, source: Source) -> Source:
        """Elements from all over `source`; good until the next call."""
        return source.sample(sample_ranges(source.count), self._pieces, self._base_pieces)

    def base_room(self, size: int) -> Bytes:
        """Where the `size` bytes of a base's sample may be put; good until the next `sample`."""
        return self._base_pieces[:size]

    def plan_by(self, sample: Source, count: int) -> PlanePlan:
        """`plan` for a source of `count` elements of which the sample is given."""
        source, size = sample, sample.count
        *planes, keys = self._buffers(source.width + 1, size)
        words = sample.words(0, size)
        for number, plane in enumerate(planes):
            self.blocks.take_planes(words, number, 1, plane)
        sizes = [len(self._numbers.compress(plane.data)) for plane in planes]
        matches = False
        if not source.numbers:
            searched = [len(self._repeats.compress(plane.data)) for plane in planes]
            matches = sum(searched) < _WORTH_A_SEARCH * sum(sizes)
            sizes = searched if matches else sizes
        methods = tuple(Method.ZSTD if s < size * WORTH else Method.RAW for s in sizes)
        coded = [number for number, method in enumerate(methods) if method != Method.RAW]
        huffman: list[int] = []
        if source.numbers and self._huffman is not None:
            for number in coded:
                alone = len(self._huffman.compress(planes[number].data))
                if sizes[number] > alone * _WORTH_A_QUICK_SEARCH:
                    huffman.append(number)
                    sizes[number] = alone
        ordered = False
        promised = sum(min(s, size) for s in sizes)
        if coded and source.delta and source.numbers and count >= _MIN_ORDERED:
            widest = max(coded, key=lambda number: sizes[number])
            # Most that is saved lies in the fullest of the coded planes; the rest is not looked at.
            if sizes[widest] > promised * _WORTH_AN_ORDER:
                sample.exponents(0, size, keys)
                saved = self._saved_by_order(keys, planes[widest], sizes[widest])
                ordered = saved >= promised * _WORTH_AN_ORDER
        estimate = promised / (size * source.width)
        return PlanePlan(methods, estimate, matches, ordered, frozenset(huffman))

    def _saved_by_order(self, keys: Bytes, plane: Bytes, size: int) -> int:
        high = keys > np.partition(keys, keys.size // 2)[keys.size // 2]
        halves = (plane[high], plane[~high])
        return size - sum(len(self._numbers.compress(half.data)) for half in halves)

    def write(self, source: Source, plan: PlanePlan, out: Buffer) -> int:
        """Split `source` as `plan` says into `out`; the payload's length.

        0 where it did not come out smaller than the chunk by `WORTH`.
        """
        target, count = as_bytes(out), source.count
        raw = _raw_groups(plan.methods, count)
        coded = [n for n, method in enumerate(plan.methods) if method != Method.RAW]
        *planes, keys = self._buffers(len(coded) + 1, count if coded else 0)
        begin = table_size(len(raw) + len(coded))
        at = _put_ends(target, begin, source)
        places = []
        for group in raw:
            places.append(target[at : at + group.stored_bytes])
            at += group.stored_bytes
        step = BLOCK_BYTES // source.width
        for low in range(0, count, step):
            high = min(low + step, count)
            words = source.words(low, high)
            for group, place in zip(raw, places, strict=True):
                part = place[low * group.planes : high * group.planes]
                self.blocks.take_planes(words, group.first, group.planes, part)
            for number, plane in zip(coded, planes, strict=True):
                self.blocks.take_planes(words, number, 1, plane[low:high])
            if plan.ordered:
                source.exponents(low, high, keys[low:high])
        if plan.ordered:
            self._order.arrange(keys, planes)
        groups = list(raw)
        for number, plane in zip(coded, planes, strict=True):
            method, stored = self._coded(plane, number, plan)
            if at + len(stored) > target.size:
                return 0
            target[at : at + len(stored)] = as_bytes(stored)
            at += len(stored)
            groups.append(Group(method, number, 1, len(stored)))
        table = Table(
            source.width, source.rotate, source.delta, plan.ordered, source.phase, tuple(groups)
        )
        target[:begin] = as_bytes(table.pack())
        return at if at < source.data.size * WORTH else 0

    def _coded(self, plane: Bytes, number: int, plan: PlanePlan) -> tuple[Method, bytes | Bytes]:
        if plane[0] == plane[-1] and bool((plane == plane[0]).all()):
            return Method.CONSTANT, plane[:1]
        compressor = self._repeats if plan.matches else self._numbers
        if plan.ordered:
            # Never raw: a reader restores the order of zstd planes only.
            return Method.ZSTD, _compress_slices(compressor, plane)
        frame: bytes | Bytes
        if number in plan.huffman and self._huffman is not None:
            frame = self._huffman.compress(plane.data)
        else:
            frame = compressor.compress(plane.data)
        return (Method.ZSTD, frame) if len(frame) < plane.size else (Method.RAW, plane)

    def _buffers(self, number: int, size: int) -> list[Bytes]:
        while len(self._kept) < number:
            self._kept.append(np.empty(0, np.uint8))
        for index in range(number):
            if self._kept[index].size < size:
                self._kept[index] = np.empty(size, np.uint8)
        return [kept[:size] for kept in self._kept[:number]]


def _compressor(**parameters: int) -> zstandard.ZstdCompressor:
    # The blob's seal holds its integrity, so a frame needs neither magic number nor checksum. A
    # frame that states its size is decompressed to its place, without a window in between.
    return zstandard.ZstdCompressor(
        compression_params=zstandard.ZstdCompressionParameters(
            format=zstandard.FORMAT_ZSTD1_MAGICLESS,
            write_content_size=True,
            write_checksum=False,
            **parameters,
        )
    )


def _compress_slices(compressor: zstandard.ZstdCompressor, plane: Bytes) -> bytes:
    """One frame in which no block, and so no Huffman table, spans two of the eight slices."""
    stream = compressor.compressobj(size=plane.size)
    columns = plane.size // RANKS
    parts = []
    for rank in range(RANKS):
        end = plane.size if rank == RANKS - 1 else (rank + 1) * columns
        parts.append(stream.compress(plane[rank * columns : end].data))
        if end < plane.size:
            parts.append(stream.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK))
    parts.append(stream.flush())
    return b"".join(parts)


def _raw_groups(methods: Sequence[Method], count: int) -> list[Group]:
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


def sample_ranges(count: int) -> list[tuple[int, int]]:
    """Which elements of `count` are a sample of them, as (begin, end)."""
    if count <= _SAMPLE_ELEMENTS:
        return [(0, count)]
    size = _SAMPLE_ELEMENTS // _SAMPLE_PIECES
    last = count - size
    starts = (last * piece // (_SAMPLE_PIECES - 1) for piece in range(_SAMPLE_PIECES))
    return [(start, start + size) for start in starts]


def _put_ends(target: Bytes, at: int, source: Source) -> int:
    """Copy the bytes before and after the elements to `at`; where the planes begin."""
    head = source.data[: source.phase]
    tail = source.data[source.phase + source.count * source.width :]
    for end in (head, tail):
        target[at : at + end.size] = end
        at += end.size
    return at
