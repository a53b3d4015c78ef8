"""The elements of a chunk in the form in which they are split into planes.

A chunk alone gives its elements, rotated where they are numbers; a chunk with a base gives the
differences. Nothing here chooses how a plane is stored.
"""

from __future__ import annotations

from collections.abc import Sequence

from backupd.codec.plane_format import WIDTHS
from backupd.codec.plane_kernels import Blocks, Bytes, Words, elements


class Source:
    """The elements of `data`, alone or as differences from those of `base`.

    `width` is an element's size in bytes, `numbers` says that elements are IEEE 754 numbers,
    `phase` how many bytes come before the first of them, `signed` that some are below zero.
    Raises `ValueError` for a layout that cannot be, and for a base of another size.
    """

    def __init__(
        self,
        blocks: Blocks,
        data: Bytes,
        width: int,
        numbers: bool,
        phase: int,
        base: Bytes | None = None,
        *,
        signed: bool = True,
    ) -> None:
        if width not in WIDTHS or not 0 <= phase < width:
            raise ValueError(f"no planes of width {width} at phase {phase}")
        if base is not None and base.size != data.size:
            raise ValueError("a chunk and its base differ in length")
        self.data, self.width, self.phase, self.numbers = data, width, phase, numbers
        self._blocks = blocks
        self._signed = signed
        self._body = elements(data, width, phase)
        self._base = None if base is None else elements(base, width, phase)
        self.count = self._body.size // width

    @property
    def blocks(self) -> Blocks:
        """The scratch blocks that it works in."""
        return self._blocks

    @property
    def delta(self) -> bool:
        """Whether the elements are differences from a base."""
        return self._base is not None

    @property
    def rotate(self) -> bool:
        """Whether elements are rotated left by one bit.

        Numbers of 2 and 4 bytes have their exponent in one byte then. The eleven bits of an
        fp64's lie better with the sign beside them: 0.881 of the plain size, against 0.894. A
        difference has its sign spread over all bits as it is. Where nothing is below zero, as in
        an optimizer's second moments, a rotation only brings a bit that is always the same into
        the plane of the mantissa's noise, which then has to be coded for one bit in eight.
        """
        return self._signed and self.numbers and self._base is None and 1 < self.width < 8

    def as_signed_as(self, sample: Source) -> Source:
        """This source without a rotation where none of the sample's elements is below zero."""
        words = self._take(sample._body, 0, sample.count, 0)
        if not self.rotate or int(words.max()) >> (8 * self.width - 1):
            return self
        return Source(
            self._blocks, self.data, self.width, self.numbers, self.phase, None, signed=False
        )

    def sample(
        self, ranges: Sequence[tuple[int, int]], pieces: Bytes, base_pieces: Bytes
    ) -> Source:
        """A source of the elements of `ranges` alone, copied into the two buffers."""
        data = self._gather(self._body, ranges, pieces)
        base = None if self._base is None else self._gather(self._base, ranges, base_pieces)
        return Source(self._blocks, data, self.width, self.numbers, 0, base, signed=self._signed)

    def _gather(self, body: Bytes, ranges: Sequence[tuple[int, int]], out: Bytes) -> Bytes:
        at = 0
        for begin, end in ranges:
            piece = body[begin * self.width : end * self.width]
            out[at : at + piece.size] = piece
            at += piece.size
        return out[:at]

    def words(self, begin: int, end: int) -> Words:
        """Elements `begin` to `end`; good until the next call of anything that uses `blocks`."""
        words = self._take(self._body, begin, end, 0)
        if self._base is not None:
            return self._blocks.difference(words, self._take(self._base, begin, end, 2), 1)
        return self._blocks.rotated(words, 1) if self.rotate else words

    def exponents(self, begin: int, end: int, out: Bytes) -> None:
        """The exponents of the base's elements `begin` to `end`: the keys of their order."""
        if self._base is None:
            raise ValueError("a chunk without a base has no order")
        self._blocks.take_exponents(self._take(self._base, begin, end, 2), out)

    def _take(self, body: Bytes, begin: int, end: int, index: int) -> Words:
        return self._blocks.words(body[begin * self.width : end * self.width], self.width, index)
