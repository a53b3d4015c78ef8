"""Where each blob lies: all tables of all packs, as sorted segments in memory.

A blob costs 56 bytes; what was added in this process stays in a small dictionary
until it is worth sorting in, and segments are merged as they grow in number, so that adding
costs no more as the repository grows. numpy is imported when there is something to look up.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from backupd.errors import DamagedError
from backupd.repository.index_object import PackTable
from backupd.repository.index_packs import PackColumns, PackRegister
from backupd.repository.records import (
    RECORD,
    BlobRecord,
    check_table,
    ids_in,
    record_at,
)

if TYPE_CHECKING:
    from backupd.repository.index_segment import Segment

_SORT_FRESH = 1 << 15  # blobs; a dictionary takes some 200 bytes for each
_SORT_TABLES = 1 << 18  # blobs; a table takes 48 bytes for each
# How many segments are merged at least, and how many where that makes more than so many rows.
_MERGE_SMALL = 4
_MERGE_LARGE = 16
_SMALL_SEGMENT = 1 << 22


@dataclass(frozen=True, slots=True)
class Location:
    """Where a blob lies."""

    pack_id: bytes
    record: BlobRecord


class IndexCache(Protocol):
    """Keeps an index near at hand, by the names of the index objects that it was read from.

    Whatever goes wrong in it costs time and nothing else: it raises nothing.
    """

    def load(self, names: Collection[str], reload: Callable[[], Index]) -> tuple[Index, set[str]]:
        """What is kept of these objects, and of which; an empty index where nothing is.

        `reload` reads the index without the cache.
        """
        ...

    def keep(self, index: Index, names: Collection[str], reload: Callable[[], Index]) -> Index:
        """Keep the index of exactly these objects, where that saves something.

        The index to be used from here on: the same, or one that takes less memory.
        """
        ...

    def drop(self) -> None:
        """Let go of what is kept."""
        ...


class Index:
    """All blobs of a repository. Safe for several threads.

    A blob that lies in several packs is found in one of those that `avoid` does not name, where
    there is one. What a look-up meets of a damaged cache makes the index read its target.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._packs = PackRegister()
        self._avoided: set[bytes] = set()
        # What was added by whole tables, until it is sorted: packs' numbers, and how many blobs.
        self._waiting: list[tuple[int, bytes | memoryview]] = []
        self._waiting_count = 0
        # Of fresh blobs: the pack's number and, in the low 32 bits, the record's place there.
        self._fresh: dict[bytes, int] = {}
        self._fresh_tables: dict[int, bytes | memoryview] = {}
        self._fresh_count = 0
        # Each sorted, oldest first.
        self._segments: list[Segment] = []
        self._reload: Callable[[], Index] | None = None

    @classmethod
    def kept(cls, packs: PackColumns, segment: Segment, reload: Callable[[], Index]) -> Index:
        """An index of what a cache holds; `reload` reads the same from the target instead."""
        index = cls()
        index._packs = PackRegister(packs)
        index._segments = [segment]
        index._reload = reload
        return index

    @property
    def kept_count(self) -> int:
        """How many blobs are a cache's."""
        with self._lock:
            return 0 if self._reload is None else self._segments[0].count

    def __len__(self) -> int:
        """How many blobs there are, copies counted."""
        with self._lock:
            settled = sum(segment.count for segment in self._segments)
            return settled + self._waiting_count + self._fresh_count

    @property
    def packs(self) -> dict[bytes, int]:
        """The size in bytes of every pack, by id."""
        with self._lock:
            return self._packs.sizes()

    @property
    def pack_count(self) -> int:
        """How many packs are known."""
        with self._lock:
            return len(self._packs)

    def pack_size(self, pack_id: bytes) -> int:
        """The size in bytes of a pack that is known."""
        with self._lock:
            return self._packs.size_of(self._packs.find(pack_id))

    def has_pack(self, pack_id: bytes) -> bool:
        """Whether the pack's table is known."""
        with self._lock:
            return self._packs.find(pack_id) >= 0

    def avoid(self, pack_ids: Iterable[bytes]) -> None:
        """Treat blobs of these packs as if they were not there, as far as `find` goes."""
        with self._lock:
            self._avoided.update(pack_ids)

    def add_table(self, pack: PackTable) -> None:
        """Add a pack; one that is known already is passed over.

        Raises `DamagedError` where a record names bytes that the pack does not have.
        """
        check_table(memoryview(pack.table), pack.size_bytes)
        self._add_checked([pack])

    def add_tables(self, packs: Sequence[PackTable]) -> None:
        """Add packs as `add_table` does each; none where one of them is damaged."""
        from backupd.repository.index_segment import check_tables

        check_tables([(pack.size_bytes, pack.table) for pack in packs])
        self._add_checked(packs)

    def _add_checked(self, packs: Sequence[PackTable]) -> None:
        # Checked before: what is found later to be damaged would spoil look-ups of every blob.
        with self._lock:
            register, waiting = self._packs, self._waiting
            for pack in packs:
                if register.find(pack.pack_id) >= 0:
                    continue
                waiting.append((register.add(pack.pack_id, pack.size_bytes), pack.table))
                self._waiting_count += int.from_bytes(pack.table[:4], "little")
                if self._waiting_count >= _SORT_TABLES:
                    self._sort_in()

    def add_fresh(self, pack: PackTable) -> None:
        """Add a pack that this process has just put; sorted in when it is worth it."""
        table = pack.table
        with self._lock:
            if self._packs.find(pack.pack_id) >= 0:
                return  # found among the packs, by one who looked there, before it was added
            number = self._packs.add(pack.pack_id, pack.size_bytes)
            self._fresh_tables[number] = table
            count = int.from_bytes(table[:4], "little")
            self._fresh_count += count
            end = 4 + RECORD.size * count
            places = range(number << 32 | 4, number << 32 | end, RECORD.size)
            self._fresh.update(zip(ids_in(table), places, strict=True))
            if self._fresh_count >= _SORT_FRESH:
                self._sort_in(fresh=True)

    def find(self, blob_id: bytes, *, anywhere: bool = False) -> Location | None:
        """Where the blob lies, or None; with `anywhere` an avoided pack is better than none."""
        with self._lock:
            found = self._fresh.get(blob_id)
            if found is not None:
                pack_id = self._packs.id_of(found >> 32)
                if pack_id not in self._avoided:
                    table = memoryview(self._fresh_tables[found >> 32])
                    return Location(pack_id, record_at(table, found & 0xFFFFFFFF))
            # Of a blob in an avoided pack another copy may be fresh, under the same key.
            self._sort_in(fresh=found is not None)
            try:
                return self._find_sorted(blob_id, anywhere)
            except DamagedError:
                if not self.distrust():
                    raise
            return self.find(blob_id, anywhere=anywhere)

    def may_have(self, blob_ids: Sequence[bytes]) -> list[bool]:
        """Whether `find` may find each; false is certain. A tenth of its time where few are."""
        with self._lock:
            self._sort_in()
            known = [blob_id in self._fresh for blob_id in blob_ids]
            if self._segments and blob_ids:
                from backupd.repository.index_segment import keys_of

                keys = keys_of(blob_ids)
                for segment in self._segments:
                    for place in segment.may_hold(keys).nonzero()[0].tolist():
                        known[place] = True
            return known

    def _find_sorted(self, blob_id: bytes, anywhere: bool) -> Location | None:
        avoided = None
        for segment in reversed(self._segments):
            for place in segment.rows(blob_id):
                pack_id = self._packs.id_of(segment.pack_at(place))
                if pack_id not in self._avoided:
                    return Location(pack_id, segment.record(place)[1])
                if anywhere and avoided is None:
                    avoided = Location(pack_id, segment.record(place)[1])
        return avoided

    def copies(self, blob_id: bytes) -> list[Location]:
        """Every place where the blob lies, those in avoided packs last."""
        with self._lock:
            self._sort_in(fresh=blob_id in self._fresh)
            try:
                found = [
                    segment.record(r) for segment in self._segments for r in segment.rows(blob_id)
                ]
            except DamagedError:
                if not self.distrust():
                    raise
                return self.copies(blob_id)
            located = [Location(self._packs.id_of(number), record) for number, record in found]
            return sorted(located, key=lambda location: location.pack_id in self._avoided)

    def avoids(self, pack_id: bytes) -> bool:
        """Whether the pack was named to `avoid`."""
        return pack_id in self._avoided

    def __contains__(self, blob_id: bytes) -> bool:
        """Whether `find` would find the blob."""
        return self.find(blob_id) is not None

    def distrust(self) -> bool:
        """Replace what came from a cache by what the target holds; false where nothing did.

        Raises what reading the target raises.
        """
        with self._lock:
            if self._reload is None:
                return False
            true = self._reload()
            self._sort_in()  # before it is forgotten which segment is the cache's
            self._reload = None
            for segment in self._segments[1:]:
                true._add_checked(list(self._tables_of(segment)))
            for number, fresh in self._fresh_tables.items():
                true.add_fresh(
                    PackTable(self._packs.id_of(number), self._packs.size_of(number), fresh)
                )
            self._packs = true._packs
            self._segments = true._segments
            self._waiting, self._waiting_count = true._waiting, true._waiting_count
            self._fresh, self._fresh_tables = true._fresh, true._fresh_tables
            self._fresh_count = true._fresh_count
            return True

    def freeze(self) -> Segment:
        """All blobs as one segment, which has been verified where it is a cache's."""
        with self._lock:
            try:
                self._verify()
            except DamagedError:
                if not self.distrust():
                    raise
            self._sort_in(fresh=True)
            if len(self._segments) != 1:
                from backupd.repository.index_segment import Segment

                self._segments = [Segment.merged(self._segments)]
                self._reload = None
            return self._segments[0]

    def _verify(self) -> None:
        for segment in self._segments:
            segment.verify()

    def parts(self) -> tuple[PackColumns, Sequence[Segment]]:
        """All packs, and all blobs as the segments they are in, without sorting them into one.

        Raises `DamagedError` where one is a cache's and not as it was written.
        """
        with self._lock:
            self._sort_in(fresh=True)
            self._verify()
            return self._packs.settle(), tuple(self._segments)

    def tables(self) -> Iterator[PackTable]:
        """Every pack with its table, as an index object holds it."""
        segment = self.freeze()
        for number, table in enumerate(segment.tables_by_pack(len(self._packs))):
            yield PackTable(self._packs.id_of(number), self._packs.size_of(number), table)

    def _tables_of(self, segment: Segment) -> Iterator[PackTable]:
        for number, table in enumerate(segment.tables_by_pack(len(self._packs))):
            if table[:4] != bytes(4):
                yield PackTable(self._packs.id_of(number), self._packs.size_of(number), table)

    def pack_of(self, number: int) -> bytes:
        """The id of a pack by its number in the columns."""
        return self._packs.id_of(number)

    def number_of(self, pack_id: bytes) -> int:
        """The number of a pack in the columns. Raises `KeyError`."""
        number = self._packs.find(pack_id)
        if number < 0:
            raise KeyError(pack_id)
        return number

    def _sort_in(self, *, fresh: bool = False) -> None:
        """Make a segment of the waiting tables, of the fresh blobs' too where asked for."""
        if fresh:
            self._waiting.extend(self._fresh_tables.items())
            self._waiting_count += self._fresh_count
            self._fresh_tables.clear()
            self._fresh.clear()
            self._fresh_count = 0
        if not self._waiting:
            return
        from backupd.repository.index_segment import Segment

        self._segments.append(Segment.of_tables(self._waiting))
        self._waiting.clear()
        self._waiting_count = 0
        # What is a cache's stays as it is: its rows are verified as they are looked up.
        kept = 0 if self._reload is None else 1
        first = kept + first_to_merge([segment.count for segment in self._segments[kept:]])
        if first < len(self._segments) - 1:
            self._segments[first:] = [Segment.merged(self._segments[first:])]


def first_to_merge(counts: Sequence[int]) -> int:
    """From which segment on all are to be one, oldest first; the last one where none is.

    Those from the end on of which each has no more rows than all after it: so a row that is
    moved ends in a segment twice as large as its own, and is moved no more often than sizes
    double. Large segments wait until they are many, as merging takes their memory twice.
    """
    first = len(counts) - 1
    total = counts[first]
    while first and counts[first - 1] <= total:
        first -= 1
        total += counts[first]
    worth = _MERGE_SMALL if total <= _SMALL_SEGMENT else _MERGE_LARGE
    return first if len(counts) - first >= worth else len(counts) - 1
