"""The table of a pack: one 48-byte record a blob, then the base ids of those that name one.

The same bytes stand sealed at the end of a pack and, beside those of other packs, in an index
object. Parsing checks every number against the pack's own bounds.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from backupd.codec.blob import HEADROOM, ID_SIZE, MAX_CHUNK
from backupd.codec.sealing import OVERHEAD
from backupd.errors import DamagedError

# id, offset in the pack, sealed length, plain length, kind, codec, flags, zero
RECORD = struct.Struct("<32sIIIBBBB")
_ID = struct.Struct("<32s16x")
_BOUNDS = struct.Struct("<32xIII4x")
_FEW = 64  # records up to which a loop is quicker than numpy's dozen calls
FLAG_BASE = 1
# What a reader makes room for: no codec stores more than the chunk and its header.
MAX_SEALED = MAX_CHUNK + HEADROOM + OVERHEAD


class BlobKind(enum.IntEnum):
    """What a blob's bytes are for."""

    DATA = 0
    TREE = 1
    CHUNK_LIST = 2
    LAYOUT = 3


@dataclass(frozen=True, slots=True)
class BlobRecord:
    """One blob of a pack; sizes and offset in bytes, `base_id` empty where it has no base."""

    blob_id: bytes
    offset: int
    sealed_size: int
    plain_size: int
    kind: int
    codec: int
    base_id: bytes = b""

    def pack(self) -> bytes:
        """The 48 bytes of the record, without the base id."""
        flags = FLAG_BASE if self.base_id else 0
        return RECORD.pack(
            self.blob_id,
            self.offset,
            self.sealed_size,
            self.plain_size,
            self.kind,
            self.codec,
            flags,
            0,
        )


def table_bytes(count: int, records: bytes | bytearray, bases: bytes | bytearray) -> bytes:
    """A whole table: the number of records, the records, the base ids in their order."""
    return count.to_bytes(4, "little") + records + bases


def table_size(table: memoryview) -> int:
    """The length of the table at the front of `table`. Raises `DamagedError`."""
    if len(table) < 4:
        raise DamagedError("a table of blobs is cut short")
    count = int.from_bytes(table[:4], "little")
    end = 4 + count * RECORD.size
    if end > len(table):
        raise DamagedError("a table of blobs is cut short")
    # Every 48th byte from the flags' place on; a slice keeps Python away from the rest.
    flags = bytes(table[4 + RECORD.size - 2 : end : RECORD.size])
    bases = flags.count(FLAG_BASE)
    if bases + flags.count(0) != count:
        raise DamagedError("a table of blobs has unknown flags; a newer backupd may read it")
    end += bases * ID_SIZE
    if end > len(table):
        raise DamagedError("a table of blobs is cut short")
    return end


def ids_in(table: bytes | memoryview) -> list[bytes]:
    """The ids of the blobs in a table that is known to be sound."""
    end = 4 + int.from_bytes(table[:4], "little") * RECORD.size
    return [blob_id for (blob_id,) in _ID.iter_unpack(table[4:end])]


def kinds_in(table: bytes) -> frozenset[int]:
    """The kinds of the blobs in a table that is known to be sound."""
    end = 4 + int.from_bytes(table[:4], "little") * RECORD.size
    return frozenset(table[4 + RECORD.size - 4 : end : RECORD.size])


def parse_table(table: memoryview, pack_size: int) -> Iterator[BlobRecord]:
    """The records of a table whose length `table_size` found. Raises `DamagedError`."""
    count = int.from_bytes(table[:4], "little")
    base_at = 4 + count * RECORD.size
    for fields in RECORD.iter_unpack(table[4:base_at]):
        blob_id, offset, sealed_size, plain_size, kind, codec, flags, _ = fields
        if (
            offset + sealed_size > pack_size
            or not OVERHEAD <= sealed_size <= MAX_SEALED
            or plain_size > MAX_CHUNK
        ):
            raise DamagedError("a table of blobs names bytes that its pack does not have")
        base_id = b""
        if flags & FLAG_BASE:
            base_id = bytes(table[base_at : base_at + ID_SIZE])
            base_at += ID_SIZE
        yield BlobRecord(blob_id, offset, sealed_size, plain_size, kind, codec, base_id)


def check_table(table: memoryview, pack_size: int) -> None:
    """What `parse_table` checks, without the records. Raises `DamagedError`."""
    count = int.from_bytes(table[:4], "little")
    records = table[4 : 4 + count * RECORD.size]
    if count <= _FEW:
        sound = all(
            offset + sealed <= pack_size and OVERHEAD <= sealed <= MAX_SEALED and plain <= MAX_CHUNK
            for offset, sealed, plain in _BOUNDS.iter_unpack(records)
        )
    else:
        import numpy as np

        columns = np.frombuffer(records, "<u4").reshape(count, -1)[:, 8:11]
        offset, sealed, plain = columns[:, 0].astype(np.uint64), columns[:, 1], columns[:, 2]
        sound = bool(
            (offset + sealed <= pack_size).all()
            and (sealed >= OVERHEAD).all()
            and (sealed <= MAX_SEALED).all()
            and (plain <= MAX_CHUNK).all()
        )
    if not sound:
        raise DamagedError("a table of blobs names bytes that its pack does not have")


def record_at(table: memoryview, at: int) -> BlobRecord:
    """The record at byte `at` of a table that is known to be sound."""
    blob_id, offset, sealed_size, plain_size, kind, codec, flags, _ = RECORD.unpack_from(table, at)
    base_id = b""
    if flags & FLAG_BASE:
        count = int.from_bytes(table[:4], "little")
        earlier = bytes(table[4 + RECORD.size - 2 : at : RECORD.size]).count(FLAG_BASE)
        begin = 4 + count * RECORD.size + earlier * ID_SIZE
        base_id = bytes(table[begin : begin + ID_SIZE])
    return BlobRecord(blob_id, offset, sealed_size, plain_size, kind, codec, base_id)
