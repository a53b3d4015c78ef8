"""Chunks of numbers as encoded blobs: byte planes, alone or as a difference from a base.

What a payload is made of is in `planes` and `delta`; here it gets its header, and it is decided
which of the forms a chunk takes. Importing this imports numpy.
"""

from __future__ import annotations

import mmap

from backupd.codec.blob import (
    HEADROOM,
    MAX_CHUNK,
    Base,
    BlobHeader,
    Buffer,
    Codec,
    Encoded,
    Numbers,
)
from backupd.codec.delta import encode_delta
from backupd.codec.plane_decoder import PlaneDecoder
from backupd.codec.plane_probe import LayoutProbe
from backupd.codec.planes import WORTH, PlaneEncoder, payload_bound
from backupd.errors import DamagedError

_ROUND = 1 << 20


class NumberEncoder:
    """Encodes chunks of numbers into a kept buffer. One thread's own."""

    def __init__(self) -> None:
        self._planes = PlaneEncoder()
        self._probe = LayoutProbe()
        self._out = memoryview(b"")

    def probe(self, chunk: Buffer) -> Numbers | None:
        """What an opaque chunk's bytes look like; a width of 1 says text or the like.

        None where nothing saves enough to be tried.
        """
        layout = self._probe.probe(chunk)
        return None if layout is None else Numbers(layout.width, layout.rotate, layout.phase)

    def encode(self, chunk: memoryview, numbers: Numbers, base: Base | None) -> Encoded | None:
        """The chunk as planes, from the base where that is smaller; None where neither pays.

        A base has the chunk's size.
        """
        needed = HEADROOM + payload_bound(len(chunk))
        if len(self._out) < needed:
            self._out = memoryview(mmap.mmap(-1, (needed + _ROUND - 1) // _ROUND * _ROUND))
        planes, room = self._planes, self._out[HEADROOM:]
        source = planes.source(chunk, numbers.width, numbers.floating, numbers.phase)
        if source is None:
            return None
        plan = planes.plan(source)
        if base is not None and (size := encode_delta(planes, source, plan, base, room)):
            return self._encoded(Codec.DELTA, base.base_id, size)
        size = planes.write(source, plan, room) if plan.estimate < WORTH else 0
        return self._encoded(Codec.PLANES, b"", size) if size else None

    def _encoded(self, codec: Codec, base_id: bytes, size: int) -> Encoded:
        header = BlobHeader(codec, base_id=base_id).pack()
        begin = HEADROOM - len(header)
        self._out[begin:HEADROOM] = header
        return Encoded(codec, base_id, self._out[begin : HEADROOM + size])


class NumberDecoder:
    """Decodes chunks of numbers into a kept buffer. One thread's own."""

    def __init__(self) -> None:
        self._planes = PlaneDecoder()
        self._out = memoryview(b"")

    def decode(self, payload: memoryview, plain_size: int, base: Buffer | None) -> memoryview:
        """The chunk; good until the next call. Raises `DamagedError`."""
        if plain_size > MAX_CHUNK:
            raise DamagedError("a blob claims more bytes than a chunk may have")
        if len(self._out) < plain_size:
            self._out = memoryview(mmap.mmap(-1, (plain_size + _ROUND - 1) // _ROUND * _ROUND))
        out = self._out[:plain_size]
        self._planes.decode(payload, out, base=base)
        return out
