"""Packs: sealed blobs one after another, the sealed table of them, and a trailer.

A pack is built in a kept buffer and named by the BLAKE3 of its bytes.
"""

from __future__ import annotations

import mmap
from dataclasses import dataclass

from blake3 import blake3

from backupd.codec.blob import ID_SIZE, Encoded
from backupd.codec.sealing import OVERHEAD, Sealer, unseal
from backupd.errors import DamagedError
from backupd.repository.layout import MAX_PACK, MIB, pack_name
from backupd.repository.records import RECORD, BlobKind, BlobRecord, table_bytes, table_size
from backupd.targets.base import Target

PACK_TARGET_SIZE = 16 * MIB
# A blob of the largest chunk may still follow when the target size is all but reached.
PACK_CAPACITY = PACK_TARGET_SIZE + 9 * MIB
MAGIC = b"backupd1"
TRAILER_SIZE = 4 + len(MAGIC)
# Most packs' tables are within so much of their end, and then cost one read.
_TAIL_BYTES = 16 * 1024
TABLE_ASSOCIATED = b"backupd format 1: pack table"
# So much is hashed at a time: while it is still in a cache, and not blob by tiny blob.
_HASH_BYTES = 2 << 20
# Of small files thousands share a pack; this bounds its table to about a megabyte.
_MAX_BLOBS = 16_384


@dataclass(frozen=True, slots=True)
class FinishedPack:
    """A pack ready to be put; `data` lies in the builder's buffer until the next `reset`."""

    pack_id: bytes
    data: memoryview
    table: bytes
    count: int


class PackBuilder:
    """One pack being filled, in one kept buffer; one thread at a time.

    A `warm` one is for blobs that are read to learn what a snapshot holds, and for no others: a
    store may keep the data in a class that is slow to read, and these not.
    """

    def __init__(self, sealer: Sealer, *, warm: bool = False) -> None:
        self.warm = warm
        self._sealer = sealer
        # An anonymous mapping, as a bytearray is filled with zeros and so takes memory at once.
        self._buffer = memoryview(mmap.mmap(-1, PACK_CAPACITY))
        self._hasher = blake3()
        self._hashed_bytes = 0
        self._records = bytearray()
        self._bases = bytearray()
        self.count = 0
        self.size_bytes = 0

    @property
    def full(self) -> bool:
        """Whether it should be finished before another blob is added."""
        return self.size_bytes >= PACK_TARGET_SIZE or self.count >= _MAX_BLOBS

    def has_room(self, sealed_size: int) -> bool:
        """Whether a blob of that size still fits beside the table it makes longer."""
        table = 4 + len(self._records) + len(self._bases) + RECORD.size + ID_SIZE
        tail = table + OVERHEAD + TRAILER_SIZE
        return self.size_bytes + sealed_size + tail <= len(self._buffer)

    def add(
        self,
        blob_id: bytes,
        kind: BlobKind,
        plain_size: int,
        encoded: Encoded,
        nonce: bytes = b"",
    ) -> int:
        """Seal an encoded chunk into the pack; its sealed size. For `nonce` see `Sealer`."""
        begin = self.size_bytes
        sealed = self._sealer.seal_into(encoded.data, blob_id, self._buffer[begin:], nonce)
        self._note(blob_id, sealed, plain_size, kind, encoded.codec, encoded.base_id)
        return sealed

    def space(self, sealed_size: int) -> memoryview:
        """Where the next blob's sealed bytes go, for a copy; `add_copied` then counts them."""
        return self._buffer[self.size_bytes : self.size_bytes + sealed_size]

    def add_copied(self, record: BlobRecord) -> None:
        """Count a blob whose sealed bytes were put into `space`; its offset is set anew."""
        self._note(
            record.blob_id,
            record.sealed_size,
            record.plain_size,
            record.kind,
            record.codec,
            record.base_id,
        )

    def _note(
        self, blob_id: bytes, sealed: int, plain: int, kind: int, codec: int, base_id: bytes
    ) -> None:
        flags = 1 if base_id else 0
        self._records += RECORD.pack(blob_id, self.size_bytes, sealed, plain, kind, codec, flags, 0)
        self._bases += base_id
        self.count += 1
        self.size_bytes += sealed
        if self.size_bytes - self._hashed_bytes >= _HASH_BYTES:
            self._hash_to(self.size_bytes)

    def _hash_to(self, end: int) -> None:
        self._hasher.update(self._buffer[self._hashed_bytes : end])
        self._hashed_bytes = end

    def finish(self) -> FinishedPack:
        """Append the table and trailer and name the pack. `reset` before the next blob."""
        table = table_bytes(self.count, self._records, self._bases)
        end = self.size_bytes
        sealed = self._sealer.seal_into(table, TABLE_ASSOCIATED, self._buffer[end:])
        end += sealed
        self._buffer[end : end + 4] = sealed.to_bytes(4, "little")
        self._buffer[end + 4 : end + TRAILER_SIZE] = MAGIC
        end += TRAILER_SIZE
        self._hash_to(end)
        return FinishedPack(self._hasher.digest(), self._buffer[:end], table, self.count)

    def reset(self) -> None:
        """Empty the pack; its buffer is used again."""
        self._hasher = blake3()
        self._hashed_bytes = 0
        self._records.clear()
        self._bases.clear()
        self.count = 0
        self.size_bytes = 0


def read_table(target: Target, pack_id: bytes, pack_size: int, sealer: Sealer) -> bytes:
    """The table of a stored pack of `pack_size` bytes, read from its end.

    Raises `DamagedError` where the trailer or the table is not what a pack has.
    """
    name = pack_name(pack_id)
    if not TRAILER_SIZE + OVERHEAD <= pack_size <= MAX_PACK:
        raise DamagedError(f"{name} has the impossible size {pack_size}")
    tail = memoryview(bytearray(min(pack_size, _TAIL_BYTES)))
    target.read_into(name, pack_size - len(tail), tail)
    trailer = tail[-TRAILER_SIZE:]
    size = int.from_bytes(trailer[:4], "little")
    begin = pack_size - TRAILER_SIZE - size
    if trailer[4:] != MAGIC or begin < 0:
        raise DamagedError(f"{name} does not end as a pack does: it is damaged or cut short")
    if begin >= pack_size - len(tail):
        sealed = tail[len(tail) - TRAILER_SIZE - size : len(tail) - TRAILER_SIZE]
    else:
        sealed = memoryview(bytearray(size))
        target.read_into(name, begin, sealed)
    return _open_table(sealed, name, sealer)


def table_within(pack: memoryview, pack_id: bytes, sealer: Sealer) -> bytes:
    """The table of a whole pack at hand. Raises `DamagedError` where it is not `pack_id`'s."""
    name = pack_name(pack_id)
    if blake3(pack).digest() != pack_id:
        raise DamagedError(f"{name} is damaged: its content has another hash")
    end = len(pack) - TRAILER_SIZE
    size = int.from_bytes(pack[end : end + 4], "little") if end >= 0 else 0
    if pack[-len(MAGIC) :] != MAGIC or size > end:
        raise DamagedError(f"{name} does not end as a pack does")
    return _open_table(pack[end - size : end], name, sealer)


def _open_table(sealed: bytearray | memoryview, name: str, sealer: Sealer) -> bytes:
    try:
        table = bytes(unseal(sealer, sealed, TABLE_ASSOCIATED))
        if table_size(memoryview(table)) != len(table):
            raise DamagedError("its length is wrong")
    except DamagedError as error:
        raise DamagedError(f"the table of {name} is damaged: {error}") from None
    return table
