"""A chunk of numbers as its difference from a base chunk, in byte planes.

The base is another chunk of the same length and layout; which chunk that is, and that it is
stored plain itself, is the caller's affair. `PlaneDecoder` reads both.
"""

from __future__ import annotations

from backupd.codec.blob import Base
from backupd.codec.plane_kernels import Buffer, Bytes, as_bytes
from backupd.codec.plane_source import Source
from backupd.codec.planes import WORTH, PlaneEncoder, PlanePlan, sample_ranges

# A restore must read the base as well, so a difference that saves less is stored plain.
WORTH_A_BASE = 0.98
# Up to here both ways are encoded in full and the smaller is kept: nothing is left to a sample.
_TRY_BOTH_BYTES = 64 << 10


def encode_delta(
    planes: PlaneEncoder, alone: Source, plain_plan: PlanePlan, base: Base, out: Buffer
) -> int:
    """Encode the chunk of `alone` as its difference from `base` into `out`; the payload's length.

    0 says that the chunk alone takes no more room, or that the base is not to be had; encode it
    plain then. `plain_plan` is what its own sample promised, `base` a chunk of its size, `out`
    has room for any payload. Chunks of up to 64 KiB are tried both ways, larger ones by a
    sample, for which the base is not read where it can be peeked at.
    """
    small = alone.data.size <= _TRY_BOTH_BYTES
    known = min(plain_plan.estimate, WORTH) * WORTH_A_BASE
    plan: PlanePlan | None = None
    if not small and (theirs := _peeked(planes, alone, base)) is not None:
        mine = planes.sample(alone)
        sample = Source(alone.blocks, mine.data, alone.width, alone.numbers, 0, theirs)
        plan = planes.plan_by(sample, alone.count)
        if plan.estimate >= known:
            return 0
    content = base.read()
    if content is None or len(content) != alone.data.size:
        return 0
    difference = Source(
        alone.blocks, alone.data, alone.width, alone.numbers, alone.phase, as_bytes(content)
    )
    if plan is None:
        plan = planes.plan(difference)
        if plan.estimate >= known:
            return 0
    plain_size = (small and planes.write(alone, plain_plan, out)) or alone.data.size
    written = planes.write(difference, plan, out)
    return written if written < plain_size * WORTH_A_BASE else 0


def _peeked(planes: PlaneEncoder, alone: Source, base: Base) -> Bytes | None:
    """The base's elements of a sample, or None where they are not to be had for a look."""
    width = alone.width
    ranges = sample_ranges(alone.count)
    pieces = planes.base_room(sum(end - begin for begin, end in ranges) * width)
    at = 0
    for begin, end in ranges:
        size = (end - begin) * width
        if not base.peek(alone.phase + begin * width, pieces[at : at + size].data):
            return None
        at += size
    return pieces
