"""A chunk as a blob: the header that names its codec, and which codec a chunk gets.

The header comes before the payload, inside the seal: codec (1 byte), flags (1), the length of
the parameters (2, little-endian), the parameters, and the 32-byte id of the base blob where
flag bit 0 is set. docs/format.md gives every byte.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias

import zstandard

from backupd.errors import DamagedError

if TYPE_CHECKING:
    from backupd.codec.number_blobs import NumberDecoder, NumberEncoder

Buffer: TypeAlias = bytes | bytearray | memoryview

ID_SIZE = 32
MAX_CHUNK = 64 << 20  # what a reader accepts as a chunk's plain length
_HEADER = struct.Struct("<BBH")
_FLAG_BASE = 1
HEADER_SIZE = _HEADER.size
MAX_PARAMETERS = 255
HEADROOM = 512  # room that a frame leaves before its chunk; no header is longer

_ZSTD_LEVEL = 3
_SMALL = 16 * 1024
_LEAST_NUMBERS = 1024  # below this a table of planes takes what the planes give
_WORTH = 0.97  # below this share of the plain bytes, compression pays for its time


class Codec(enum.IntEnum):
    """The value of a blob header's first byte."""

    RAW = 0
    ZSTD = 1
    PLANES = 2
    DELTA = 3


@dataclass(frozen=True, slots=True)
class Numbers:
    """What is known of a chunk's elements: bytes of each, whether they are IEEE numbers, and how
    many bytes come before the first whole one. A `width` of 0 says that nothing is known.
    """

    width: int
    floating: bool = False
    phase: int = 0


class Base(Protocol):
    """A chunk, stored plain, that another of its size may be a difference from."""

    @property
    def base_id(self) -> bytes:
        """The id of its blob."""
        ...

    def peek(self, offset: int, out: memoryview) -> bool:
        """Fill `out` from its byte `offset` on, unverified; false where only `read` can."""
        ...

    def read(self) -> Buffer | None:
        """Its plain bytes, verified, good until another base is read; None if not to be had."""
        ...


@dataclass(frozen=True, slots=True)
class BlobHeader:
    """What stands before a blob's payload; `base_id` is empty where there is no base."""

    codec: int
    parameters: bytes = b""
    base_id: bytes = b""

    def pack(self) -> bytes:
        """The header's bytes."""
        flags = _FLAG_BASE if self.base_id else 0
        head = _HEADER.pack(self.codec, flags, len(self.parameters))
        return head + self.parameters + self.base_id


def parse_header(encoded: Buffer) -> tuple[BlobHeader, int]:
    """The header of an encoded blob and where its payload begins. Raises `DamagedError`."""
    view = memoryview(encoded)
    if len(view) < HEADER_SIZE:
        raise DamagedError("a blob is shorter than its header")
    codec, flags, length = _HEADER.unpack_from(view)
    if length > MAX_PARAMETERS:
        raise DamagedError("a blob's header is longer than one may be")
    end = HEADER_SIZE + length
    base_id = b""
    if flags & ~_FLAG_BASE:
        raise DamagedError(f"a blob has unknown flags {flags:#x}; a newer backupd may read it")
    if flags & _FLAG_BASE:
        base_id = bytes(view[end : end + ID_SIZE])
        if len(base_id) != ID_SIZE:
            raise DamagedError("a blob is shorter than its header")
        end += ID_SIZE
    if end > len(view):
        raise DamagedError("a blob is shorter than its header")
    return BlobHeader(codec, bytes(view[HEADER_SIZE : HEADER_SIZE + length]), base_id), end


class Encoded(NamedTuple):
    """One encoded chunk: the codec, the base (empty for none) and header with payload.

    `data` may lie in the caller's frame or in the encoder's own buffer, and is good until
    either is used again.
    """

    codec: int
    base_id: bytes
    data: Buffer


RAW_HEADER = _HEADER.pack(Codec.RAW, 0, 0)
_ZSTD_HEADER = _HEADER.pack(Codec.ZSTD, 0, 0)


class BlobEncoder:
    """Chooses how a chunk is encoded. Not shared between threads: zstandard's are not."""

    def __init__(self) -> None:
        self._zstd = zstandard.ZstdCompressor(level=_ZSTD_LEVEL, write_checksum=False)
        self._quick = zstandard.ZstdCompressor(level=1, write_checksum=False)
        self._numbers: NumberEncoder | None = None

    def encode(
        self,
        frame: memoryview,
        numbers: Numbers | None = None,
        base: Base | None = None,
    ) -> Encoded:
        """The smallest of the forms that the chunk's content makes worth trying.

        The chunk is `frame[HEADROOM:]`; the room before it is the encoder's to write, so that
        a raw blob needs no copy. `numbers` is what is known of its elements (None for bytes that
        are no numbers, as a tree's), `base` what it may be a difference from.
        """
        chunk = frame[HEADROOM:]
        size = len(chunk)
        if numbers is not None and size >= _LEAST_NUMBERS:
            encoder = self._number_encoder()
            known = numbers if numbers.width else encoder.probe(chunk)
            if known is None:
                return self._raw(frame)
            if known.width > 1 or numbers.width:
                return encoder.encode(chunk, known, base) or self._raw(frame)
        # What is small is cheap to store and dear to set a high level up for.
        payload = (self._zstd if size > _SMALL else self._quick).compress(chunk)
        if len(payload) < size * _WORTH:
            return Encoded(Codec.ZSTD, b"", _ZSTD_HEADER + payload)
        return self._raw(frame)

    def squeeze(self, frames: Sequence[memoryview]) -> list[bytes]:
        """Compress small chunks, each behind a `RAW_HEADER`, without the interpreter's lock.

        The payloads, for `squeezed`.
        """
        payloads: list[bytes] = [b""] * len(frames)
        small = [n for n, frame in enumerate(frames) if len(frame) <= _SMALL + HEADER_SIZE]
        large = [n for n, frame in enumerate(frames) if len(frame) > _SMALL + HEADER_SIZE]
        for compressor, numbers in ((self._quick, small), (self._zstd, large)):
            if numbers:
                chunks: list[Any] = [frames[n][HEADER_SIZE:] for n in numbers]
                found = compressor.multi_compress_to_buffer(chunks)
                for place, n in enumerate(numbers):
                    payloads[n] = found[place].tobytes()
        return payloads

    def _raw(self, frame: memoryview) -> Encoded:
        begin = HEADROOM - HEADER_SIZE
        frame[begin:HEADROOM] = RAW_HEADER
        return Encoded(Codec.RAW, b"", frame[begin:])

    def _number_encoder(self) -> NumberEncoder:
        if self._numbers is None:
            # Comes with numpy, which a snapshot of small files does without.
            from backupd.codec.number_blobs import NumberEncoder

            self._numbers = NumberEncoder()
        return self._numbers


def squeezed(frame: memoryview, payload: bytes) -> Encoded:
    """The smaller form of a chunk behind a `RAW_HEADER`, given what `squeeze` made of it."""
    if len(payload) < (len(frame) - HEADER_SIZE) * _WORTH:
        return Encoded(Codec.ZSTD, b"", _ZSTD_HEADER + payload)
    return Encoded(Codec.RAW, b"", frame)


def framed(chunk: Buffer) -> memoryview:
    """A frame around a copy of `chunk`, for small ones that come from nowhere in particular."""
    frame = bytearray(HEADROOM + len(chunk))
    frame[HEADROOM:] = chunk
    return memoryview(frame)


class BlobDecoder:
    """Turns encoded blobs back into chunks. Not shared between threads."""

    def __init__(self) -> None:
        self._zstd = zstandard.ZstdDecompressor(max_window_size=1 << 27)
        self._numbers: NumberDecoder | None = None

    def decode(
        self, encoded: Buffer, plain_size: int, base: Callable[[bytes], Buffer] | None = None
    ) -> Buffer:
        """The chunk of `plain_size` bytes; may be a view of `encoded` or of a kept buffer.

        `base` gives the plain content of a base by its id; without it a delta is refused.
        Raises `DamagedError`.
        """
        header, begin = parse_header(encoded)
        payload = memoryview(encoded)[begin:]
        if header.codec == Codec.RAW:
            plain: Buffer = payload
        elif header.codec == Codec.ZSTD:
            plain = self._decompress(payload, plain_size)
        elif header.codec == Codec.PLANES and not header.base_id:
            plain = self._number_decoder().decode(payload, plain_size, None)
        elif header.codec == Codec.DELTA and header.base_id:
            if base is None:
                raise DamagedError("a blob's base stands on a base itself, which none may")
            origin = base(header.base_id)
            plain = self._number_decoder().decode(payload, plain_size, origin)
        else:
            raise DamagedError(
                f"a blob is encoded by codec {header.codec}, which this backupd does not know",
                hint="restore with the version of backupd that stored it, or a newer one",
            )
        if len(plain) != plain_size:
            raise DamagedError("a blob does not decode to the length that its pack states")
        return plain

    def _number_decoder(self) -> NumberDecoder:
        if self._numbers is None:
            from backupd.codec.number_blobs import NumberDecoder

            self._numbers = NumberDecoder()
        return self._numbers

    def _decompress(self, payload: memoryview, plain_size: int) -> bytes:
        if plain_size > MAX_CHUNK:
            raise DamagedError("a blob claims more bytes than a chunk may have")
        try:
            # The frame states its size; what it states is checked before anything is allocated.
            if zstandard.frame_content_size(payload) != plain_size:
                raise DamagedError("a blob does not decode to the length that its pack states")
            return self._zstd.decompress(payload, max_output_size=plain_size)
        except zstandard.ZstdError as error:
            raise DamagedError(f"a blob does not decompress: {error}") from None
