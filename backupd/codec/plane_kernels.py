"""Elements to byte planes and back, a block at a time so that every pass stays near the cache.

Only arithmetic on kept buffers lives here: no choice of method, no payload. All passes are numpy
loops over whole blocks, which release the GIL.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Bytes: TypeAlias = NDArray[np.uint8]
Buffer: TypeAlias = bytes | bytearray | memoryview | Bytes
Words: TypeAlias = NDArray[Any]  # unsigned integers of a chunk's width

BLOCK_BYTES = 1 << 20  # long enough to forget the cost of a call, and to seldom meet the GIL

_TYPES: dict[int, np.dtype[Any]] = {n: np.dtype(f"<u{n}") for n in (1, 2, 4, 8)}
# Half of each digit's range, in every byte: see `difference`.
_BIAS = {width: int.from_bytes(b"\x80" * width, "little") for width in _TYPES}


def as_bytes(buffer: Buffer) -> Bytes:
    """`buffer` as an array of its bytes, without a copy."""
    return np.frombuffer(buffer, np.uint8)


def elements(data: Bytes, width: int, phase: int) -> Bytes:
    """The bytes of `data` that are whole elements."""
    return data[phase : phase + (data.size - phase) // width * width]


class Blocks:
    """Scratch blocks of one thread; their contents hold only until the next call."""

    def __init__(self) -> None:
        self._scratch = [np.empty(BLOCK_BYTES, np.uint8) for _ in range(4)]

    def scratch(self, index: int, width: int, count: int) -> Words:
        """The first `count` words of scratch block `index`."""
        words: Words = self._scratch[index].view(_TYPES[width])
        return words[:count]

    def words(self, data: Bytes, width: int, index: int) -> Words:
        """`data` as words: where it lies when it is aligned, else a copy in scratch `index`.

        numpy works on unaligned words through small casts of its own, at a fifth of the speed.
        """
        words: Words = data.view(_TYPES[width])
        if words.flags.aligned:
            return words
        copy = self.scratch(index, width, data.size // width)
        np.copyto(copy.view(np.uint8), data)
        return copy

    def rotated(self, words: Words, index: int) -> Words:
        """Each word rotated left by one bit, in scratch `index`; uses scratch 3.

        The exponent of an IEEE 754 number becomes the highest byte, its sign the lowest bit.
        """
        width = words.itemsize
        result = self.scratch(index, width, words.size)
        carry = self.scratch(3, width, words.size)
        np.right_shift(words, 8 * width - 1, out=carry)
        np.left_shift(words, 1, out=result)
        np.bitwise_or(result, carry, out=result)
        return result

    def rotate_back(self, words: Words, out: Words) -> None:
        """Each word rotated right by one bit into `out`; spoils `words`, uses scratch 3."""
        width = words.itemsize
        carry = self.scratch(3, width, words.size)
        np.left_shift(words, 8 * width - 1, out=carry)
        np.right_shift(words, 1, out=words)
        np.bitwise_or(words, carry, out=out)

    def difference(self, words: Words, base: Words, index: int) -> Words:
        """`words - base`, wrapping, in balanced base-256 digits, in scratch `index`.

        Adding 0x80 to every byte, carries included, writes a difference as digits of -128 to
        127 each kept as 128 more. A small difference of either sign then has high digits of
        zero, as zigzag would give, for one pass in place of three.
        """
        width = words.itemsize
        result = self.scratch(index, width, words.size)
        np.subtract(words, base, out=result)
        np.add(result, _TYPES[width].type(_BIAS[width]), out=result)
        return result

    def add_difference(self, digits: Words, base: Words, out: Words) -> None:
        """The inverse of `difference` into `out`; spoils `digits`."""
        width = digits.itemsize
        np.subtract(digits, _TYPES[width].type(_BIAS[width]), out=digits)
        np.add(digits, base, out=out)

    def take_planes(self, words: Words, first: int, planes: int, out: Bytes) -> None:
        """Bytes `first` to `first + planes` of each word into `out`; uses scratch 3.

        A cast to a narrower unsigned type keeps the low bytes, and is four times as fast in
        numpy as a copy with a stride.
        """
        target: Words = out.view(_TYPES[planes])
        aligned = target.flags.aligned
        if not aligned:
            target = self.scratch(3, planes, words.size)
        if first:
            np.right_shift(words, 8 * first, out=target, casting="unsafe")
        else:
            np.copyto(target, words, casting="unsafe")
        if not aligned:
            np.copyto(out, target.view(np.uint8))

    def take_exponents(self, words: Words, out: Bytes) -> None:
        """The exponents of the numbers `words` into `out`, a byte each.

        The eight bits below the sign, and of fp64 the low eight of its exponent's eleven.
        """
        if words.itemsize == 1:
            np.left_shift(words, 1, out=out)
        else:
            shift = 52 if words.itemsize == 8 else 8 * words.itemsize - 9
            np.right_shift(words, shift, out=out, casting="unsafe")

    def append_planes(self, words: Words, planes: int, data: Bytes, *, first: bool) -> None:
        """Shift each word up by so many bytes and set those from `data`; uses scratch 2 and 3.

        With `first` the words hold nothing yet. Casts and shifts of whole blocks are half again
        as fast as a copy with a stride.
        """
        narrow = self.words(data, planes, 3)
        if first:
            np.copyto(words, narrow)
            return
        wide = self.scratch(2, words.itemsize, words.size)
        np.copyto(wide, narrow)
        np.left_shift(words, 8 * planes, out=words)
        np.bitwise_or(words, wide, out=words)

    def append_constant(self, words: Words, planes: int, data: Bytes, *, first: bool) -> None:
        """`append_planes` where all words have the bytes `data`."""
        value = words.dtype.type(int.from_bytes(data.tobytes(), "little"))
        if first:
            words.fill(value)
            return
        np.left_shift(words, 8 * planes, out=words)
        np.bitwise_or(words, value, out=words)
