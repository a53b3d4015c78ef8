"""Differences between chunks that lie in memory, for tests of the codec."""

from __future__ import annotations

from dataclasses import dataclass, replace

from backupd.codec import delta
from backupd.codec.plane_kernels import Buffer, as_bytes
from backupd.codec.plane_source import Source
from backupd.codec.planes import PlaneEncoder


@dataclass(frozen=True, slots=True)
class HeldBase:
    """A base whose bytes are held; `shown` says whether a look at parts of them is possible."""

    content: bytes
    shown: bool = True
    base_id: bytes = bytes(32)

    def peek(self, offset: int, out: memoryview) -> bool:
        """See `backupd.codec.blob.Base`."""
        if self.shown:
            out[:] = self.content[offset : offset + len(out)]
        return self.shown

    def read(self) -> bytes:
        """See `backupd.codec.blob.Base`."""
        return self.content


def encode_delta(
    planes: PlaneEncoder,
    chunk: Buffer,
    base: bytes,
    width: int,
    numbers: bool,
    out: Buffer,
    *,
    phase: int = 0,
    shown: bool = True,
) -> int:
    """A chunk as its difference from `base` in `out`; the payload's length, 0 where none pays."""
    alone = planes.source(chunk, width, numbers, phase)
    if alone is None:
        return 0
    return delta.encode_delta(planes, alone, planes.plan(alone), HeldBase(base, shown), out)


def ordered_delta(
    planes: PlaneEncoder, chunk: Buffer, base: bytes, width: int, numbers: bool, out: Buffer
) -> int:
    """A chunk as its difference from `base` in the order of the base's exponents."""
    source = Source(planes.blocks, as_bytes(chunk), width, numbers, 0, as_bytes(base))
    return planes.write(source, replace(planes.plan(source), ordered=True), out)
