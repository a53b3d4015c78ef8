"""A chunk of numbers as its difference from a base chunk, in byte planes.

The base is another chunk's plain bytes of the same length and layout; which chunk that is, and
that it is stored plain itself, is the caller's affair. `PlaneDecoder` reads both.
"""

from __future__ import annotations

from backupd.codec.plane_format import WIDTHS
from backupd.codec.plane_kernels import Words
from backupd.codec.planes import (
    MIN_ELEMENTS,
    WORTH,
    Buffer,
    PlaneEncoder,
    as_bytes,
    elements,
)

# A base must be read again at every restore, so a difference that saves less stays plain.
WORTH_A_BASE = 0.98
# Up to here both ways are encoded in full and the smaller is kept: nothing is left to a sample.
_TRY_BOTH_BYTES = 64 << 10


class DeltaEncoder:
    """Encodes chunks against bases. It shares the buffers of its thread's `PlaneEncoder`."""

    def __init__(self, planes: PlaneEncoder) -> None:
        self._planes = planes

    def encode_delta(
        self,
        chunk: Buffer,
        base: Buffer,
        width: int,
        rotate: bool,
        out: Buffer,
        *,
        phase: int = 0,
    ) -> int:
        """Encode `chunk` as its difference from `base` into `out`; the payload's length.

        0 says that the chunk alone takes no more room, judged by a sample; encode it plain
        then. The arguments are those of `PlaneEncoder.encode`; `base` has the size of `chunk`.
        """
        data, origin = as_bytes(chunk), as_bytes(base)
        if data.size != origin.size:
            raise ValueError("a chunk and its base differ in length")
        if width not in WIDTHS or not 0 <= phase < width:
            raise ValueError(f"no planes of width {width} at phase {phase}")
        body = elements(data, width, phase)
        origin = elements(origin, width, phase)
        count = body.size // width
        if count < MIN_ELEMENTS:
            return 0
        blocks = self._planes.blocks

        def plain(begin: int, end: int) -> Words:
            words = blocks.words(body[begin * width : end * width], width, 0)
            return blocks.rotated(words, 1) if rotate else words

        def difference(begin: int, end: int) -> Words:
            words = blocks.words(body[begin * width : end * width], width, 0)
            other = blocks.words(origin[begin * width : end * width], width, 2)
            return blocks.difference(words, other, 1)

        alone = self._planes.plan(plain, count, width, repeats=not rotate)
        plan = self._planes.plan(difference, count, width, repeats=not rotate)
        least = min(alone.estimate, WORTH)
        if plan.estimate >= least * WORTH_A_BASE:
            return 0
        written = self._planes.write(
            difference, data, width, phase, plan, out, rotate=False, delta=True
        )
        return written if written < data.size * WORTH else 0
