"""Where to cut a run of bytes so that equal content gives equal chunks wherever it stands.

FastCDC (Xia et al., USENIX ATC 2016) with its normalised chunking: no cut before `min_size`, a
hard condition up to `normal_size`, an easy one from there to `max_size`. Because Python may not
touch single bytes, the gear hash is computed for a whole block at once by doubling, in 8-bit
arithmetic (its window is then 8 bytes), and only the one position in 256 where it is zero is
judged further, by a keyed multilinear hash of the 32 bytes that end there. The key keeps an
onlooker from telling known files by their chunks' lengths.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from blake3 import blake3

from backupd.codec.chunking_parameters import ChunkingParameters

if TYPE_CHECKING:
    from numpy.typing import NDArray

_BLOCK = 256 * 1024  # six passes over it stay near, and a call into numpy costs little beside it
_GEAR_WINDOW = 8
_WINDOW = 32
_WORDS = _WINDOW // 8


class Chunker:
    """Finds cuts; keeps scratch buffers, so each thread has its own."""

    def __init__(self, parameters: ChunkingParameters, chunking_key: bytes) -> None:
        self.parameters = parameters
        words = blake3(chunking_key).digest(8 * (_WORDS + 1))
        # Odd multipliers: a multilinear hash over 64-bit words, of which the high bits are used.
        self._multipliers = np.frombuffer(words, dtype="<u8", count=_WORDS) | np.uint64(1)
        self._offset = np.frombuffer(words, dtype="<u8", offset=8 * _WORDS)[0]
        self._gear: NDArray[np.uint8] = np.empty(_BLOCK + _GEAR_WINDOW, np.uint8)
        self._shifted: NDArray[np.uint8] = np.empty(_BLOCK + _GEAR_WINDOW, np.uint8)
        self._zero: NDArray[np.bool_] = np.empty(_BLOCK + _GEAR_WINDOW, np.bool_)

    def find_cut(self, data: memoryview, seen: int, *, final: bool) -> int:
        """The length of the chunk that begins at `data[0]`, or 0 when more bytes must be seen.

        `seen` is how many bytes of `data` an earlier call for this chunk has examined; `final`
        says that no byte follows `data`, so that the rest is a chunk.
        """
        size = min(len(data), self.parameters.max_size)
        position = max(seen, self.parameters.min_size)
        if position < size:
            array = np.frombuffer(data, dtype=np.uint8, count=size)
            normal = self.parameters.normal_size
            if position < normal:
                cut = self._search(array, position, min(size, normal), self.parameters.hard_bits)
                if cut:
                    return cut
                position = normal
            if position < size:
                cut = self._search(array, position, size, self.parameters.easy_bits)
                if cut:
                    return cut
        return size if final or size == self.parameters.max_size else 0

    def _search(self, array: NDArray[np.uint8], start: int, end: int, bits: int) -> int:
        """The first length in [start, end) after which to cut, or 0."""
        shift = np.uint64(64 - (bits - 8)) if bits > 8 else None
        for begin in range(start, end, _BLOCK):
            stop = min(begin + _BLOCK, end)
            candidates = self._candidates(array, begin, stop)
            if not len(candidates):
                continue
            if shift is None:
                return int(candidates[0])
            hits = np.flatnonzero(self._judge(array, candidates) >> shift == 0)
            if len(hits):
                return int(candidates[hits[0]])
        return 0

    def _candidates(self, array: NDArray[np.uint8], begin: int, stop: int) -> NDArray[np.intp]:
        """Lengths in [begin, stop) whose last 8 bytes have a gear hash of zero (mod 256)."""
        size = stop - begin + _GEAR_WINDOW - 1
        gear = self._gear[:size]
        shifted = self._shifted[:size]
        # The gear table, as arithmetic: an odd product, its high half folded into the low, twice.
        np.multiply(array[begin - _GEAR_WINDOW : stop - 1], 167, out=gear)
        np.right_shift(gear, 4, out=shifted)
        np.bitwise_xor(gear, shifted, out=gear)
        np.multiply(gear, 77, out=gear)
        for width in (1, 2, 4):  # the sum over 2, 4, 8 bytes, each shifted by its age
            # A product by a power of two, as numpy has no fast shift of bytes to the left.
            np.multiply(gear[: size - width], 1 << width, out=shifted[: size - width])
            np.add(gear[width:], shifted[: size - width], out=gear[width:])
        zero = self._zero[:size]
        np.equal(gear, 0, out=zero)
        return np.flatnonzero(zero[_GEAR_WINDOW - 1 :]) + begin

    def _judge(self, array: NDArray[np.uint8], lengths: NDArray[np.intp]) -> NDArray[np.uint64]:
        """The keyed hash of the 32 bytes that end at each length."""
        windows = np.lib.stride_tricks.sliding_window_view(array, _WINDOW)[lengths - _WINDOW]
        words = windows.view("<u8")
        products: NDArray[np.uint64] = words * self._multipliers
        hashes: NDArray[np.uint64] = products.sum(axis=1, dtype=np.uint64) + self._offset
        return hashes
