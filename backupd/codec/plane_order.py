"""Planes of a difference in the order of the base's exponents, so that like stands with like.

How far a weight moves, counted in units of its last place, depends on its exponent, which a
reader knows from the base. Sorting within groups of eight brings elements of like exponents
together without an index: a sorting network is a fixed list of compare-exchanges, each one
vector operation on whole slices, and is undone by the same exchanges in reverse.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from backupd.codec.plane_kernels import Bytes

RANKS = 8

# Batcher's odd-even mergesort for eight (K. E. Batcher, "Sorting networks and their
# applications", 1968): 19 compare-exchanges, the smaller key goes to the first place.
_EXCHANGES = (
    *((0, 1), (2, 3), (4, 5), (6, 7)),
    *((0, 2), (1, 3), (4, 6), (5, 7), (1, 2), (5, 6)),
    *((0, 4), (1, 5), (2, 6), (3, 7), (2, 4), (3, 5), (1, 2), (3, 4), (5, 6)),
)
# Columns taken at once: long enough to forget the cost of a numpy call; the masks of a run then
# take 2.5 MB. Twice as many gain nothing, a quarter as many take 1.4 times as long.
_COLUMNS = 128 << 10


class PlaneOrder:
    """Puts planes into the order of their keys and back. Keeps buffers: one per thread.

    They are made at the first use, as most chunks are in no order.
    """

    def __init__(self) -> None:
        self._masks = np.empty((0, 0), np.uint8)
        self._keys = np.empty((0, 0), np.uint8)
        self._spare = np.empty(0, np.uint8)

    def arrange(self, keys: Bytes, planes: Sequence[Bytes]) -> None:
        """Sort `planes` in place: all are cut into eight slices, which are sorted across.

        After it the first slice of each plane holds, of every eight elements that stood at the
        same place of their slices, the one with the smallest key, and so on. Equal keys stay.
        Elements beyond eight whole slices stay where they are.
        """
        self._run(keys, planes, back=False)

    def restore(self, keys: Bytes, planes: Sequence[Bytes]) -> None:
        """The inverse of `arrange` for the same `keys`."""
        self._run(keys, planes, back=True)

    def _run(self, keys: Bytes, planes: Sequence[Bytes], *, back: bool) -> None:
        if not self._spare.size:
            self._masks = np.empty((len(_EXCHANGES), _COLUMNS), np.uint8)
            self._keys = np.empty((RANKS, _COLUMNS), np.uint8)
            self._spare = np.empty(_COLUMNS, np.uint8)
        columns = keys.size // RANKS
        key_rows = _rows(keys, columns)
        plane_rows = [_rows(plane, columns) for plane in planes]
        for low in range(0, columns, _COLUMNS):
            high = min(low + _COLUMNS, columns)
            masks = self._compare(key_rows[:, low:high])
            steps = list(zip(_EXCHANGES, masks, strict=True))
            if back:
                steps.reverse()
            for rows in plane_rows:
                self._exchange([row[low:high] for row in rows], steps)

    def _compare(self, keys: NDArray[np.uint8]) -> list[Bytes]:
        """For each exchange 0xFF where it swaps; the keys themselves stay as they are."""
        size = keys.shape[1]
        rows = [row[:size] for row in self._keys]
        for row, key in zip(rows, keys, strict=True):
            np.copyto(row, key)
        spare = self._spare[:size]
        masks = [mask[:size] for mask in self._masks]
        for (a, b), mask in zip(_EXCHANGES, masks, strict=True):
            low, high = rows[a], rows[b]
            np.greater(low, high, out=mask.view(np.bool_))
            np.negative(mask, out=mask)
            np.minimum(low, high, out=spare)
            np.maximum(low, high, out=high)
            # The smaller keys are now in the spare row, and the row that they replace is spare.
            rows[a], spare = spare, low
        return masks

    def _exchange(
        self, rows: Sequence[Bytes], steps: Sequence[tuple[tuple[int, int], Bytes]]
    ) -> None:
        spare = self._spare[: rows[0].size]
        for (a, b), mask in steps:
            first, second = rows[a], rows[b]
            np.bitwise_xor(first, second, out=spare)
            np.bitwise_and(spare, mask, out=spare)
            np.bitwise_xor(first, spare, out=first)
            np.bitwise_xor(second, spare, out=second)


def _rows(plane: Bytes, columns: int) -> NDArray[np.uint8]:
    return plane[: RANKS * columns].reshape(RANKS, columns)
