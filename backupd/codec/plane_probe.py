"""Which layout suits bytes of unknown content: a width, numbers or not, and where they begin.

HDF5 files, TensorFlow variables and whatever has no parser hold arrays as well. The answer is a
guess from a small sample; `PlaneEncoder.encode` still looks at every plane before it believes it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import zstandard
from numpy.typing import NDArray

from backupd.codec.plane_kernels import Blocks, Buffer, Bytes, as_bytes
from backupd.codec.planes import WORTH

_PIECES = 4
_PIECE_BYTES = 2 << 10
_LEAST_BYTES = 512  # below this a histogram says nothing
_WIDEST = 8
# What a wider layout must save, in shares of the plain size: a plane of the same numbers at
# twice their width costs the same, and the noise of the estimate is about 0.004.
_CLEARLY = 0.008
_NOISE = 0.002


@dataclass(frozen=True, slots=True)
class Layout:
    """How to encode a chunk: the arguments of `PlaneEncoder.encode`, and what it promises.

    A `width` of 1 says that plain zstd suits it best. `estimate` is a share of the plain size.
    """

    width: int
    rotate: bool
    phase: int
    estimate: float


@dataclass(frozen=True, slots=True)
class _Split:
    """A width, the share of the plain size it takes, how many planes pay, where elements begin."""

    width: int
    cost: float
    coded: int
    phase: int


class LayoutProbe:
    """Probes chunks for their layout. Keeps a compressor and buffers: one per thread."""

    def __init__(self) -> None:
        self._zstd = zstandard.ZstdCompressor(level=1, write_checksum=False)
        self._blocks = Blocks()
        self._lanes = np.tile(np.arange(_WIDEST) * 256, _PIECES * _PIECE_BYTES // _WIDEST)

    def probe(self, chunk: Buffer) -> Layout | None:
        """The layout that promises most for `chunk`, or None where nothing saves enough."""
        data = as_bytes(chunk)
        if data.size < _LEAST_BYTES:
            return None
        sample = _sample(data)
        repeats = len(self._zstd.compress(sample.data)) / sample.size
        best = Layout(1, False, 0, repeats)
        lanes = self._histogram(sample)
        split = _split(lanes, 2)
        for width in (4, 8):
            wider = _split(lanes, width)
            if wider.cost < split.cost - _CLEARLY:
                split = wider
        if split.cost < best.estimate - _CLEARLY:
            best = Layout(split.width, False, 0, split.cost)
        if split.cost < WORTH:
            rotated = self._rotated(sample, split.width, split.phase)
            # A rotation costs nothing in bytes and saves the coding of the plane that held the
            # lowest bit of the exponent; integers get one plane more to code by it.
            same = rotated.cost < split.cost + _NOISE and rotated.coded <= split.coded
            if same and rotated.cost < min(repeats - _CLEARLY, WORTH):
                best = Layout(split.width, True, split.phase, rotated.cost)
        return best if best.estimate < WORTH else None

    def _histogram(self, sample: Bytes) -> NDArray[np.intp]:
        """How often each byte value stands at each place modulo eight."""
        lanes = self._lanes[: sample.size] + sample
        return np.bincount(lanes, minlength=_WIDEST * 256).reshape(_WIDEST, 256)

    def _rotated(self, sample: Bytes, width: int, phase: int) -> _Split:
        # Where two pieces meet, a phase makes one element of both: 1 in 256 at most.
        size = (sample.size - _WIDEST) // _WIDEST * _WIDEST
        words = self._blocks.words(sample[phase : phase + size], width, 0)
        rotated = self._blocks.rotated(words, 1).view(np.uint8)
        return _split(self._histogram(rotated), width)


def _sample(data: Bytes) -> Bytes:
    """Pieces from all over `data`, each from a multiple of eight bytes, joined."""
    if data.size <= _PIECES * _PIECE_BYTES:
        return data[: data.size // _WIDEST * _WIDEST]
    last = (data.size - _PIECE_BYTES) // _WIDEST
    starts = [last * piece // (_PIECES - 1) * _WIDEST for piece in range(_PIECES)]
    return np.concatenate([data[start : start + _PIECE_BYTES] for start in starts])


def _entropies(counts: NDArray[np.intp]) -> NDArray[np.float64]:
    """The order-0 entropy of each row of counts as a share of eight bits.

    With Miller and Madow's correction ("Note on the bias of information estimates", 1955): a
    sample of a few thousand bytes looks less random than it is.
    """
    total = counts.sum(axis=1)
    logs = np.log2(np.maximum(counts, 1))
    bits = np.log2(total) - (counts * logs).sum(axis=1) / total
    unseen = ((counts > 0).sum(axis=1) - 1) / (2 * np.log(2) * total)
    shares: NDArray[np.float64] = np.minimum((bits + unseen) / 8, 1.0)
    return shares


def _split(lanes: NDArray[np.intp], width: int) -> _Split:
    """What bytes of these counts take as planes of `width`."""
    planes = _entropies(lanes.reshape(_WIDEST // width, width, 256).sum(axis=0))
    coded = planes < WORTH
    cost = float(np.where(coded, planes, 1.0).mean())
    # In little-endian numbers the most regular plane is the highest: the next begins an element.
    phase = (int(np.argmin(planes)) + 1) % width
    return _Split(width, cost, int(coded.sum()), phase)
