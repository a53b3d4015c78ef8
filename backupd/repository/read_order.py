"""In which order blobs are read, so that few reads fetch many and a base is opened once.

Pure: places of blobs in, reads out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from backupd.repository.index import Location
from backupd.repository.layout import MIB
from backupd.repository.records import BlobRecord

# Blobs of one pack that lie no further apart are read in one go, up to so much at once.
_MERGE_GAP = 256 * 1024
MERGE_MOST = 4 * MIB
# From here on a delta is worth a read of its own, where that saves opening its base again.
LEAST_ALONE = 128 * 1024


@dataclass(frozen=True, slots=True)
class Span:
    """A run of one pack that is read at once, and the blobs in it by offset."""

    pack_id: bytes
    offset: int
    size_bytes: int
    records: tuple[BlobRecord, ...]


@dataclass(frozen=True, slots=True)
class Family:
    """Deltas that stand on one base; `wanted` says that the base itself is to be read as well."""

    base_id: bytes
    wanted: bool
    deltas: tuple[Span, ...]


def alone(location: Location) -> Span:
    """The read that fetches one blob."""
    record = location.record
    return Span(location.pack_id, record.offset, record.sealed_size, (record,))


def families(
    locations: Iterable[Location], *, least: int = LEAST_ALONE
) -> tuple[list[Family], list[Location]]:
    """The deltas of `least` bytes whose base is needed more than once, by base; and all other
    places.

    Read one after another by one reader, the deltas of a family have their base opened once.
    """
    known = list(locations)
    by_base: dict[bytes, list[Location]] = {}
    plain: set[bytes] = set()
    for location in known:
        record = location.record
        if not record.base_id:
            plain.add(record.blob_id)
        elif record.sealed_size >= least:
            by_base.setdefault(record.base_id, []).append(location)
    grouped = {
        base_id: deltas
        for base_id, deltas in by_base.items()
        if len(deltas) > 1 or base_id in plain
    }
    taken = {delta.record.blob_id for deltas in grouped.values() for delta in deltas}
    taken |= grouped.keys() & plain
    return (
        [
            Family(base_id, base_id in plain, tuple(alone(delta) for delta in deltas))
            for base_id, deltas in grouped.items()
        ],
        [location for location in known if location.record.blob_id not in taken],
    )


def spans(locations: Iterable[Location], *, most: int = MERGE_MOST) -> Iterator[Span]:
    """The reads that fetch all these blobs, pack by pack in the packs' own order.

    A read is longer than `most` bytes only where one blob is.
    """
    by_pack: dict[bytes, list[BlobRecord]] = {}
    for location in locations:
        by_pack.setdefault(location.pack_id, []).append(location.record)
    for pack_id, records in by_pack.items():
        records.sort(key=lambda record: record.offset)
        yield from _merged(pack_id, records, most)


def _merged(pack_id: bytes, records: Sequence[BlobRecord], most: int) -> Iterator[Span]:
    run: list[BlobRecord] = []
    begin = end = 0
    for record in records:
        stop = record.offset + record.sealed_size
        if run and (record.offset - end > _MERGE_GAP or stop - begin > most):
            yield Span(pack_id, begin, end - begin, tuple(run))
            run = []
        if not run:
            begin = record.offset
        run.append(record)
        end = max(end, stop)
    if run:
        yield Span(pack_id, begin, end - begin, tuple(run))


def whole_pack(pack_id: bytes, size_bytes: int, records: Iterable[BlobRecord]) -> Iterator[Span]:
    """Reads that together fetch every byte of a pack, in order, each with the blobs that lie in it.

    A read is longer than `MERGE_MOST` only where one blob, or the pack's table, is.
    """
    run: list[BlobRecord] = []
    begin = end = 0
    for record in sorted(records, key=lambda record: record.offset):
        stop = record.offset + record.sealed_size
        # Never inside a blob, also where the table of a damaged pack lets some overlap.
        if run and record.offset >= end and stop - begin > MERGE_MOST:
            yield Span(pack_id, begin, end - begin, tuple(run))
            begin, run = end, []
        run.append(record)
        end = max(end, stop)
    if run and size_bytes - begin > MERGE_MOST:
        yield Span(pack_id, begin, end - begin, tuple(run))
        begin, run = end, []
    yield Span(pack_id, begin, size_bytes - begin, tuple(run))
