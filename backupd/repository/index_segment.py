"""One run of an index's blobs, sorted by id: in memory, or mapped from the state folder's cache.

A blob takes 56 bytes: the first 8 of its id as a sorted column, which a search walks, and a row
of 48 with the rest, so that a look-up touches one place of each. A mapped segment has 4 more a
blob, a check value, as nobody verified the file. Imports numpy; `index` imports this lazily.
"""

from __future__ import annotations

import bisect
import math
import struct
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backupd.codec.blob import ID_SIZE, MAX_CHUNK
from backupd.codec.sealing import OVERHEAD
from backupd.errors import DamagedError
from backupd.repository.records import FLAG_BASE, MAX_SEALED, RECORD, BlobRecord

NO_BASE = 0xFFFFFFFF
# What is merged at a time, in rows: what a merge takes beside its input and output is a few
# times 56 bytes of each.
BLOCK_ROWS = 1 << 18

ROW = np.dtype(
    [
        ("rest", "u1", (24,)),
        ("pack", "<u4"),
        ("offset", "<u4"),
        ("sealed", "<u4"),
        ("plain", "<u4"),
        ("kind", "u1"),
        ("codec", "u1"),
        ("zero", "<u2"),
        ("base", "<u4"),
    ]
)
KEY = np.dtype("<u8")
CHECK = np.dtype("<u4")
_ROW = struct.Struct("<24sIIIIBBHI")
_WORDS = struct.Struct("<6Q")
_BASE_WORDS = struct.Struct("<4Q")

# A record as it stands in a pack's table (see `records`).
_TABLE_RECORD = np.dtype(
    [
        ("key", ">u8"),
        ("rest", "u1", (24,)),
        ("offset", "<u4"),
        ("sealed", "<u4"),
        ("plain", "<u4"),
        ("kind", "u1"),
        ("codec", "u1"),
        ("flags", "u1"),
        ("zero", "u1"),
    ]
)

# Multiply-add hashing over 64-bit words (Dietzfelbinger, "Universal hashing and k-wise
# independent random variables via integer arithmetic without primes", 1996): the upper half of
# the sum of each word times an odd number. Any odd numbers do; these are digits of pi.
_FACTORS = (
    0x243F6A8885A308D3,
    0x13198A2E03707345,
    0xA4093822299F31D1,
    0x082EFA98EC4E6C89,
    0x452821E638D01377,
    0xBE5466CF34E90C6D,
    0xC0AC29B7C97C50DD,
    0x3F84D5B5B5470917,
    0x9216D5D98979FB1B,
    0xD1310BA698DFB5AD,
    0x2FFD72DBD01ADFB7,
)
_MASK = (1 << 64) - 1
_NOT_AS_WRITTEN = "a cache of an index is not as it was written"


def keys_of(blob_ids: Sequence[bytes]) -> NDArray[np.uint64]:
    """The beginnings of ids by which segments are sorted."""
    words = np.frombuffer(b"".join(blob_ids), ">u8")
    return words[:: ID_SIZE // 8].astype(KEY)


class Segment:
    """Blobs sorted by the first 8 bytes of their ids (big-endian). Never changes.

    `base_ids` has 32 bytes for each base that a row names by its place there.
    """

    __slots__ = (
        "_base_bytes",
        "_checks",
        "_keys",
        "_rows",
        "_slack",
        "base_ids",
        "check",
        "count",
        "key",
        "row",
    )

    def __init__(
        self,
        key: NDArray[np.uint64],
        row: NDArray[Any],
        base_ids: NDArray[np.uint8],
        check: NDArray[np.uint32] | None = None,
    ) -> None:
        self.key = key
        self.row = row
        self.base_ids = base_ids
        self.check = check
        self.count = len(key)
        # Python reads a number from a memoryview in a tenth of the time that numpy takes.
        self._keys = key.data
        self._rows = row.view(np.uint8).data
        self._base_bytes = base_ids.reshape(-1).data
        self._checks = None if check is None else check.data
        # Ids are keyed hashes, so the place of one among n is known but for about sqrt(n).
        self._slack = 2 * math.isqrt(self.count) + 16

    @property
    def pack(self) -> NDArray[np.uint32]:
        """The number of each row's pack."""
        return self.row["pack"]

    @property
    def sealed(self) -> NDArray[np.uint32]:
        """The sealed size of each row's blob in bytes."""
        return self.row["sealed"]

    @property
    def offset(self) -> NDArray[np.uint32]:
        """The place of each row's blob in its pack."""
        return self.row["offset"]

    @classmethod
    def of_tables(cls, tables: Sequence[tuple[int, bytes | memoryview]]) -> Segment:
        """The blobs of packs' tables, each given with its pack's number."""
        new, counts, bases = _joined(tables)
        row = np.empty(len(new), ROW)
        numbers = np.fromiter((number for number, _ in tables), np.uint32, len(tables))
        row["pack"] = np.repeat(numbers, counts)
        for name in ("rest", "offset", "sealed", "plain", "kind", "codec"):
            row[name] = new[name]
        row["zero"] = 0
        has_base = (new["flags"] & FLAG_BASE).astype(bool)
        row["base"] = NO_BASE
        row["base"][has_base] = np.arange(len(bases) // ID_SIZE, dtype=np.uint32)
        key = new["key"].astype(KEY)
        order = np.argsort(key, kind="stable")
        base_ids = np.frombuffer(bases, np.uint8).reshape(-1, ID_SIZE)
        return cls(key[order], row.take(order), base_ids)

    @classmethod
    def merged(cls, segments: Sequence[Segment]) -> Segment:
        """The rows of all the segments; of equal keys those of earlier segments come first."""
        count = sum(segment.count for segment in segments)
        key = np.empty(count, KEY)
        row = np.empty(count, ROW)
        at = 0
        for keys, rows in merged_blocks(segments):
            key[at : at + len(keys)] = keys
            row[at : at + len(keys)] = rows
            at += len(keys)
        none = np.empty((0, ID_SIZE), np.uint8)
        return cls(key, row, np.concatenate([none, *(segment.base_ids for segment in segments)]))

    def rows(self, blob_id: bytes | memoryview) -> Iterator[int]:
        """The rows that hold the blob. Raises `DamagedError` where a mapped one is damaged."""
        key = int.from_bytes(blob_id[:8], "big")
        rest = blob_id[8:]
        keys, count = self._keys, self.count
        guess = key * count >> 64
        low = max(guess - self._slack, 0)
        high = min(guess + self._slack, count)
        if (low and keys[low - 1] >= key) or (high < count and keys[high] < key):
            low, high = 0, count
        # bisect over a memoryview takes a microsecond where numpy's own search takes five.
        place = bisect.bisect_left(keys, key, low, high)
        while place < count and keys[place] == key:
            begin = place * 48
            if self._rows[begin : begin + 24] == rest:
                self._verify(place)
                yield place
            place += 1

    def may_hold(self, keys: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Whether blobs whose ids begin so may be there; false is certain."""
        places = np.searchsorted(self.key, keys)
        found = places < self.count
        found[found] = self.key[places[found]] == keys[found]
        return found

    def _verify(self, place: int) -> None:
        if self._checks is None:
            return
        words = [self._keys[place], *_WORDS.unpack_from(self._rows, place * 48)]
        base = words[6] >> 32
        if base != NO_BASE:
            if base >= len(self.base_ids):
                raise DamagedError(_NOT_AS_WRITTEN)
            words += _BASE_WORDS.unpack_from(self._base_bytes, base * ID_SIZE)
        total = sum(word * factor for word, factor in zip(words, _FACTORS, strict=False))
        if (total & _MASK) >> 32 != self._checks[place]:
            raise DamagedError(_NOT_AS_WRITTEN)

    def verify(self) -> None:
        """Look at every row of a mapped segment. Raises `DamagedError`."""
        if self.check is None:
            return
        for at in range(0, self.count, BLOCK_ROWS):
            part = slice(at, at + BLOCK_ROWS)
            base = self.row["base"][part]
            if (base[base != NO_BASE] >= len(self.base_ids)).any() or (
                check_values(self.key[part], self.row[part], self.base_ids) != self.check[part]
            ).any():
                raise DamagedError(_NOT_AS_WRITTEN)

    def pack_at(self, place: int) -> int:
        """The number of the pack of a row."""
        number: int = _ROW.unpack_from(self._rows, place * 48)[1]
        return number

    def base_of(self, place: int) -> bytes:
        """The base's id of a row's blob, empty where it has none."""
        base = _ROW.unpack_from(self._rows, place * 48)[8]
        return b"" if base == NO_BASE else self._base_id(base)

    def _base_id(self, base: int) -> bytes:
        return bytes(self._base_bytes[base * ID_SIZE : (base + 1) * ID_SIZE])

    def record(self, place: int) -> tuple[int, BlobRecord]:
        """The pack's number and the record of a row."""
        rest, pack, offset, sealed, plain, kind, codec, _, base = _ROW.unpack_from(
            self._rows, place * 48
        )
        blob_id = self._keys[place].to_bytes(8, "big") + rest
        base_id = b"" if base == NO_BASE else self._base_id(base)
        return pack, BlobRecord(blob_id, offset, sealed, plain, kind, codec, base_id)

    def places_of(self, ids: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Of each id (n by 32 bytes) its row, and whether it is in exactly one row.

        Where it is not, the row means nothing, and `rows` tells.
        """
        key = np.ascontiguousarray(ids[:, :8]).view(">u8")[:, 0].astype(KEY)
        first = np.searchsorted(self.key, key)
        single = first < self.count
        first[~single] = 0
        if not self.count:
            return first, single
        single &= self.key[first] == key
        after = np.minimum(first + 1, self.count - 1)
        single &= (after == first) | (self.key[after] != key)
        # As three numbers, as comparing 24 bytes row by row takes numpy several times as long.
        rest = np.ascontiguousarray(ids[:, 8:]).view("<u8")
        stored = np.ascontiguousarray(self.row["rest"][first]).view("<u8")
        single &= (rest == stored).all(axis=1)
        return first, single

    def base_ids_of(self, places: NDArray[np.int64]) -> NDArray[np.uint8]:
        """The bases' ids of those of the rows that have one, each once."""
        base = self.row["base"][places]
        ids = np.ascontiguousarray(self.base_ids[base[base != NO_BASE]])
        return np.unique(ids.view("V32")).view(np.uint8).reshape(-1, ID_SIZE)

    def plain_at(self, places: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of the rows stand on no base."""
        plain: NDArray[np.bool_] = self.row["base"][places] == NO_BASE
        return plain

    def tables_by_pack(self, packs: int) -> Iterator[bytes]:
        """The table of each pack by its number, records by offset, as the pack itself has it."""
        order = np.argsort(
            self.pack.astype(np.uint64) << np.uint64(32) | self.offset, kind="stable"
        )
        ends = np.cumsum(np.bincount(self.pack, minlength=packs)).tolist()
        first = 0
        while first < packs:
            # As many packs as have a block's rows, at least one.
            begin = ends[first - 1] if first else 0
            last = max(bisect.bisect_right(ends, begin + BLOCK_ROWS), first + 1)
            yield from self._tables(order[begin : ends[last - 1]], begin, ends[first:last])
            first = last

    def _tables(self, places: NDArray[np.int64], begin: int, ends: list[int]) -> Iterator[bytes]:
        rows = self.row.take(places)
        out = np.zeros(len(rows), _TABLE_RECORD)
        out["key"] = self.key[places]
        for name in ("rest", "offset", "sealed", "plain", "kind", "codec"):
            out[name] = rows[name]
        has_base = rows["base"] != NO_BASE
        out["flags"] = has_base * np.uint8(FLAG_BASE)
        records = out.tobytes()
        bases = self.base_ids[rows["base"][has_base]].tobytes()
        bases_before = np.concatenate([[0], np.cumsum(has_base)]).tolist()
        at = 0
        for end in ends:
            stop = at + end - begin
            yield (
                (stop - at).to_bytes(4, "little")
                + records[at * RECORD.size : stop * RECORD.size]
                + bases[bases_before[at] * ID_SIZE : bases_before[stop] * ID_SIZE]
            )
            at, begin = stop, end


def merged_blocks(
    segments: Sequence[Segment],
) -> Iterator[tuple[NDArray[np.uint64], NDArray[Any]]]:
    """The keys and rows of all the segments in order, a block at a time.

    Rows name their bases by their place in the segments' `base_ids`, one after another.
    """
    shifts = np.cumsum([0, *(len(segment.base_ids) for segment in segments[:-1])]).tolist()
    at = [0] * len(segments)
    share = max(BLOCK_ROWS // max(len(segments), 1), 1)
    while any(place < s.count for place, s in zip(at, segments, strict=True)):
        # The lowest key among those a share ahead: up to it no segment has more than a share,
        # but for rows of equal keys.
        bounds = [
            s.key[place + share - 1]
            for place, s in zip(at, segments, strict=True)
            if place + share <= s.count
        ]
        stops = [
            int(np.searchsorted(s.key, min(bounds), side="right")) if bounds else s.count
            for s in segments
        ]
        parts = [
            (s, shift, slice(place, stop))
            for s, shift, place, stop in zip(segments, shifts, at, stops, strict=True)
            if stop > place
        ]
        key = np.concatenate([s.key[part] for s, _, part in parts])
        row = np.concatenate([s.row[part] for s, _, part in parts])
        shift = np.concatenate([np.full(p.stop - p.start, n, np.uint32) for _, n, p in parts])
        base = row["base"]
        base[base != NO_BASE] += shift[base != NO_BASE]
        if len(parts) > 1:
            order = np.argsort(key, kind="stable")
            key, row = key[order], row.take(order)
        yield key, row
        at = stops


def check_values(
    key: NDArray[np.uint64], row: NDArray[Any], base_ids: NDArray[np.uint8]
) -> NDArray[np.uint32]:
    """What `Segment` verifies a mapped row by: a hash of all that it says, its base's id too."""
    total = key * np.uint64(_FACTORS[0])
    words = row.view(KEY).reshape(-1, 6)
    for column in range(6):
        total += words[:, column] * np.uint64(_FACTORS[1 + column])
    has_base = np.flatnonzero(row["base"] != NO_BASE)
    bases = np.ascontiguousarray(base_ids[row["base"][has_base]]).view(KEY)
    for column in range(4 if len(has_base) else 0):
        total[has_base] += bases[:, column] * np.uint64(_FACTORS[7 + column])
    return (total >> np.uint64(32)).astype(CHECK)


def check_tables(tables: Sequence[tuple[int, bytes | memoryview]]) -> None:
    """Refuse records that name bytes which their pack does not have. Raises `DamagedError`.

    Each table is given with its pack's size in bytes.
    """
    new, counts, _ = _joined(tables)
    sizes = np.fromiter((size for size, _ in tables), np.uint64, len(tables))
    ends = new["offset"].astype(np.uint64) + new["sealed"]
    if (
        (ends > np.repeat(sizes, counts)).any()
        or (new["sealed"] < OVERHEAD).any()
        or (new["sealed"] > MAX_SEALED).any()
        or (new["plain"] > MAX_CHUNK).any()
    ):
        raise DamagedError("an index names bytes that its packs do not have")


def _joined(
    tables: Sequence[tuple[int, bytes | memoryview]],
) -> tuple[NDArray[Any], list[int], bytes]:
    """All tables' records, how many each has, and all their base ids."""
    counts = [int.from_bytes(table[:4], "little") for _, table in tables]
    ends = [4 + count * RECORD.size for count in counts]
    pairs = list(zip((memoryview(table) for _, table in tables), ends, strict=True))
    records = b"".join([table[4:end] for table, end in pairs])
    bases = b"".join([table[end:] for table, end in pairs])
    return np.frombuffer(records, _TABLE_RECORD), counts, bases
