"""Where each blob lies: sorted arrays in memory, sealed sets of pack tables on a target.

In memory a blob costs 56 bytes; what was added in this process stays in a small dictionary
until it is worth sorting in. numpy is imported when there is something to look up.
"""

from __future__ import annotations

import bisect
import functools
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from backupd.codec.blob import ID_SIZE, MAX_CHUNK
from backupd.codec.sealing import OVERHEAD
from backupd.errors import DamagedError
from backupd.repository.layout import MAX_PACK
from backupd.repository.records import (
    FLAG_BASE,
    MAX_SEALED,
    RECORD,
    BlobRecord,
    record_at,
    table_bytes,
    table_size,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MAGIC = b"backupd index 1\n"
ASSOCIATED = b"backupd format 1: index"
_ENTRY_HEAD = ID_SIZE + 8  # pack id, size of the pack
_SORT_AFTER = 32_768  # fresh blobs, or waiting tables of about as many
_NO_BASE = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class PackTable:
    """One pack as an index knows it: id, size in bytes, and its table's bytes."""

    pack_id: bytes
    size_bytes: int
    table: bytes | memoryview


@dataclass(frozen=True, slots=True)
class Location:
    """Where a blob lies."""

    pack_id: bytes
    record: BlobRecord


def index_bytes(packs: Iterable[PackTable]) -> bytes:
    """The plain bytes of an index object."""
    parts = [MAGIC]
    for pack in packs:
        parts.append(pack.pack_id + pack.size_bytes.to_bytes(8, "little"))
        parts.append(bytes(pack.table))
    return b"".join(parts)


def parse_index(plain: bytes | bytearray) -> Iterator[PackTable]:
    """The packs of an index object's plain bytes. Raises `DamagedError`."""
    view = memoryview(plain)
    if view[: len(MAGIC)] != MAGIC:
        raise DamagedError("an index object does not begin as one does")
    at = len(MAGIC)
    while at < len(view):
        if len(view) - at < _ENTRY_HEAD:
            raise DamagedError("an index object is cut short")
        pack_id = bytes(view[at : at + ID_SIZE])
        size = int.from_bytes(view[at + ID_SIZE : at + _ENTRY_HEAD], "little")
        at += _ENTRY_HEAD
        length = table_size(view[at:])
        if size > MAX_PACK:
            raise DamagedError("an index object names a pack of impossible size")
        yield PackTable(pack_id, size, view[at : at + length])
        at += length


class Index:
    """All blobs of a repository. Safe for several threads.

    A blob that lies in several packs is found in one of those that `avoid` does not name, where
    there is one.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._packs: list[bytes] = []
        self._pack_sizes: list[int] = []
        self._numbers: dict[bytes, int] = {}
        self._avoided: set[bytes] = set()
        self._tables: list[tuple[int, bytes | memoryview]] = []
        # Of fresh blobs: the pack's number and, in the low 32 bits, the record's place there.
        self._fresh: dict[bytes, int] = {}
        self._fresh_tables: dict[int, bytes | memoryview] = {}
        self._sorted: Columns | None = None

    def __len__(self) -> int:
        """How many blobs there are, copies counted."""
        with self._lock:
            self._merge()
            return (self._sorted.count if self._sorted else 0) + len(self._fresh)

    @property
    def packs(self) -> dict[bytes, int]:
        """The size in bytes of every pack, by id."""
        with self._lock:
            return dict(zip(self._packs, self._pack_sizes, strict=True))

    def has_pack(self, pack_id: bytes) -> bool:
        """Whether the pack's table is known."""
        return pack_id in self._numbers

    def avoid(self, pack_ids: Iterable[bytes]) -> None:
        """Treat blobs of these packs as if they were not there, as far as `find` goes."""
        with self._lock:
            self._avoided.update(pack_ids)

    def _number(self, pack_id: bytes, size: int) -> int:
        number = self._numbers.get(pack_id)
        if number is None:
            number = len(self._packs)
            self._numbers[pack_id] = number
            self._packs.append(pack_id)
            self._pack_sizes.append(size)
        return number

    def add_table(self, pack: PackTable) -> None:
        """Add a pack; one that is known already is passed over.

        Raises `DamagedError` where a record names bytes that the pack does not have.
        """
        with self._lock:
            if pack.pack_id in self._numbers:
                return
            # Before it is taken in: found later, it would spoil every look-up of every blob.
            _check(pack)
            self._tables.append((self._number(pack.pack_id, pack.size_bytes), pack.table))
            if len(self._tables) * 64 > _SORT_AFTER:
                self._merge()

    def add_fresh(self, pack: PackTable) -> None:
        """Add a pack that this process has just put; sorted in when it is worth it."""
        table = pack.table
        with self._lock:
            if pack.pack_id in self._numbers:
                return
            number = self._number(pack.pack_id, pack.size_bytes)
            self._fresh_tables[number] = table
            end = 4 + RECORD.size * int.from_bytes(table[:4], "little")
            for at in range(4, end, RECORD.size):
                self._fresh[bytes(table[at : at + ID_SIZE])] = number << 32 | at
            if len(self._fresh) >= _SORT_AFTER:
                self._sort_fresh()
                self._merge()

    def _sort_fresh(self) -> None:
        self._tables.extend(self._fresh_tables.items())
        self._fresh_tables.clear()
        self._fresh.clear()

    def find(self, blob_id: bytes, *, anywhere: bool = False) -> Location | None:
        """Where the blob lies, or None; with `anywhere` an avoided pack is better than none."""
        with self._lock:
            fresh = self._fresh.get(blob_id)
            if fresh is not None:
                number = fresh >> 32
                if self._packs[number] not in self._avoided:
                    table = memoryview(self._fresh_tables[number])
                    return Location(self._packs[number], record_at(table, fresh & 0xFFFFFFFF))
                self._sort_fresh()  # the dictionary has one copy of each blob, the rows have all
            self._merge()
            if self._sorted is None:
                return None
            last_resort = -1
            for row in self._sorted.rows(blob_id):
                if self._packs[self._sorted.pack[row]] not in self._avoided:
                    break
                last_resort = row
            else:
                row = last_resort
                if row < 0 or not anywhere:
                    return None
            number, record = self._sorted.record(row)
            return Location(self._packs[number], record)

    def __contains__(self, blob_id: bytes) -> bool:
        """Whether `find` would find the blob."""
        return self.find(blob_id) is not None

    def freeze(self) -> Columns:
        """All blobs as sorted columns, which do not change any more."""
        with self._lock:
            self._sort_fresh()
            self._merge()
            if self._sorted is None:
                self._sorted = Columns.merged(None, [(0, bytes(4))])
            return self._sorted

    def tables(self) -> Iterator[PackTable]:
        """Every pack with its table, as an index object holds it."""
        columns = self.freeze()
        for number, rows in columns.rows_by_pack(len(self._packs)):
            records = [columns.record(row)[1] for row in rows]
            table = table_bytes(
                len(records),
                b"".join(record.pack() for record in records),
                b"".join(record.base_id for record in records),
            )
            yield PackTable(self._packs[number], self._pack_sizes[number], table)

    def pack_of(self, number: int) -> bytes:
        """The id of a pack by its number in the columns."""
        return self._packs[number]

    def number_of(self, pack_id: bytes) -> int:
        """The number of a pack in the columns."""
        return self._numbers[pack_id]

    def _merge(self) -> None:
        """Sort waiting tables in."""
        if self._tables:
            self._sorted = Columns.merged(self._sorted, self._tables)
            self._tables.clear()


class Columns:
    """Blobs as columns, sorted by the first 8 bytes of their ids (big-endian)."""

    __slots__ = (
        "_keys",
        "base",
        "base_ids",
        "count",
        "key",
        "meta",
        "offset",
        "pack",
        "plain",
        "rest",
        "sealed",
    )

    def __init__(
        self,
        key: NDArray[np.uint64],
        rest: NDArray[np.uint8],
        pack: NDArray[np.uint32],
        offset: NDArray[np.uint32],
        sealed: NDArray[np.uint32],
        plain: NDArray[np.uint32],
        meta: NDArray[np.uint16],
        base: NDArray[np.uint32],
        base_ids: NDArray[np.uint8],
    ) -> None:
        self.key = key
        self.rest = rest
        self.pack = pack
        self.offset = offset
        self.sealed = sealed
        self.plain = plain
        self.meta = meta
        self.base = base
        self.base_ids = base_ids
        self.count = len(key)
        self._keys = key.data

    @classmethod
    def merged(
        cls,
        old: Columns | None,
        tables: list[tuple[int, bytes | memoryview]],
    ) -> Columns:
        """Old columns and new tables, sorted together."""
        import numpy as np

        record_type = _record_type()
        rows, numbers, bases = [], [], []
        for number, table in tables:
            count = int.from_bytes(table[:4], "little")
            end = 4 + count * RECORD.size
            rows.append(np.frombuffer(table, record_type, count, offset=4))
            numbers.append(np.full(count, number, np.uint32))
            bases.append(np.frombuffer(table, np.uint8, offset=end).reshape(-1, ID_SIZE))
        new = np.concatenate(rows)
        pack = np.concatenate(numbers)
        base_ids = np.concatenate(bases)
        has_base = (new["flags"] & FLAG_BASE).astype(bool)
        first = len(old.base_ids) if old else 0
        base = np.full(len(new), _NO_BASE, np.uint32)
        base[has_base] = np.arange(first, first + len(base_ids), dtype=np.uint32)

        def column(name: str, kind: Any) -> Any:
            fresh = new[name].astype(kind)
            return fresh if old is None else np.concatenate([getattr(old, name), fresh])

        key = column("key", np.uint64)
        order = np.argsort(key, kind="stable")
        if old is not None:
            pack = np.concatenate([old.pack, pack])
            base = np.concatenate([old.base, base])
            base_ids = np.concatenate([old.base_ids, base_ids])
        return cls(
            key[order],
            column("rest", np.uint8)[order],
            pack[order],
            column("offset", np.uint32)[order],
            column("sealed", np.uint32)[order],
            column("plain", np.uint32)[order],
            column("meta", np.uint16)[order],
            base[order],
            base_ids,
        )

    def rows(self, blob_id: bytes) -> Iterator[int]:
        """The rows that hold the blob."""
        key = int.from_bytes(blob_id[:8], "big")
        keys = self._keys
        # bisect over a memoryview takes a microsecond where numpy's own search takes five.
        row = bisect.bisect_left(keys, key)
        while row < self.count and keys[row] == key:
            if self.rest[row].tobytes() == blob_id[8:]:
                yield row
            row += 1

    def rows_by_pack(self, packs: int) -> Iterator[tuple[int, list[int]]]:
        """For each pack's number its rows by offset."""
        import numpy as np

        order = np.lexsort((self.offset, self.pack))
        ends = np.cumsum(np.bincount(self.pack, minlength=packs))
        begin = 0
        for number, end in enumerate(ends.tolist()):
            yield number, order[begin:end].tolist()
            begin = end

    def base_of(self, row: int) -> bytes:
        """The base's id of a row's blob, empty where it has none."""
        base = int(self.base[row])
        return b"" if base == _NO_BASE else self.base_ids[base].tobytes()

    def record(self, row: int) -> tuple[int, BlobRecord]:
        """The pack's number and the record of a row."""
        meta = int(self.meta[row])
        return int(self.pack[row]), BlobRecord(
            blob_id=int(self.key[row]).to_bytes(8, "big") + self.rest[row].tobytes(),
            offset=int(self.offset[row]),
            sealed_size=int(self.sealed[row]),
            plain_size=int(self.plain[row]),
            kind=meta & 0xFF,
            codec=meta >> 8,
            base_id=self.base_of(row),
        )


@functools.cache
def _record_type() -> Any:
    """A table's record as numpy reads it."""
    import numpy as np

    record_type = np.dtype(
        [
            ("key", ">u8"),
            ("rest", "u1", (24,)),
            ("offset", "<u4"),
            ("sealed", "<u4"),
            ("plain", "<u4"),
            ("meta", "<u2"),
            ("flags", "u1"),
            ("zero", "u1"),
        ]
    )
    assert record_type.itemsize == RECORD.size
    return record_type


def _check(pack: PackTable) -> None:
    """Refuse records that name bytes which their pack does not have."""
    import numpy as np

    count = int.from_bytes(pack.table[:4], "little")
    rows = np.frombuffer(pack.table, _record_type(), count, offset=4)
    sealed = rows["sealed"]
    if (
        (rows["offset"].astype(np.uint64) + sealed > pack.size_bytes).any()
        or (sealed < OVERHEAD).any()
        or (sealed > MAX_SEALED).any()
        or (rows["plain"] > MAX_CHUNK).any()
    ):
        raise DamagedError("an index names bytes that its packs do not have")
