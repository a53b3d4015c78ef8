"""A chunk of numbers as its difference from a base chunk, in byte planes.

The base is another chunk's plain bytes of the same length and layout; which chunk that is, and
that it is stored plain itself, is the caller's affair. `PlaneDecoder` reads both.
"""

from __future__ import annotations

from backupd.codec.plane_kernels import Buffer, as_bytes
from backupd.codec.plane_source import Source
from backupd.codec.planes import MIN_ELEMENTS, WORTH, PlaneEncoder

# A restore must read the base as well, so a difference that saves less is stored plain.
WORTH_A_BASE = 0.98
# Up to here both ways are encoded in full and the smaller is kept: nothing is left to a sample.
_TRY_BOTH_BYTES = 64 << 10


def encode_delta(
    planes: PlaneEncoder,
    chunk: Buffer,
    base: Buffer,
    width: int,
    rotate: bool,
    out: Buffer,
    *,
    phase: int = 0,
) -> int:
    """Encode `chunk` as its difference from `base` into `out`; the payload's length.

    0 says that the chunk alone takes no more room; encode it plain then. The arguments are
    those of `PlaneEncoder.encode`; `base` has the size of `chunk`. Chunks of up to 64 KiB are
    tried both ways, larger ones by a sample.
    """
    data = as_bytes(chunk)
    difference = Source(planes.blocks, data, width, rotate, phase, as_bytes(base))
    if difference.count < MIN_ELEMENTS:
        return 0
    alone = Source(planes.blocks, data, width, rotate, phase)
    plan, plain_plan = planes.plan(difference), planes.plan(alone)
    if plan.estimate >= min(plain_plan.estimate, WORTH) * WORTH_A_BASE:
        return 0
    if data.size <= _TRY_BOTH_BYTES:
        plain_size = planes.write(alone, plain_plan, out) or data.size
    else:
        plain_size = data.size
    written = planes.write(difference, plan, out)
    return written if written < plain_size * WORTH_A_BASE else 0
