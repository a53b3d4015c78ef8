"""Copying snapshots between two repositories, as sealed blobs that nobody opens.

All targets share the master key, so a blob that is sealed for one is sealed for all; only tree
blobs and chunk lists are opened, to learn what a snapshot needs. A pack that is needed nearly
whole is handed on as it is, under its own name, once its hash was compared; of others the blobs
that are needed are put into new packs. Several packs are under way at once.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from backupd.codec.blob import framed
from backupd.codec.sealing import OVERHEAD
from backupd.errors import ColdError, DamagedError, ObjectMissingError, StoppedError, WrongKeyError
from backupd.operations.progress import Progress
from backupd.operations.reports import TargetResult
from backupd.repository.index import Index, Location
from backupd.repository.layout import MAX_SNAPSHOT, pack_name
from backupd.repository.pack import table_within
from backupd.repository.pack_stream import PackStream
from backupd.repository.reachable import blobs_of
from backupd.repository.read_order import Span, spans
from backupd.repository.reader import BlobFinder, BlobReader, kept_buffer
from backupd.repository.records import RECORD, BlobKind, BlobRecord, kinds_in
from backupd.repository.repository import Repository
from backupd.repository.snapshots import SnapshotName, StoredSnapshot
from backupd.repository.writer import Writer

# A pack is taken whole when at least so much of it is wanted: the rest is waste on the receiver.
_WHOLE_SHARE = 0.9
# A writer may take an index that was read so long before it began (docs/format.md, W1).
_INDEX_SECONDS = 900.0


class Copier:
    """Copies snapshots between two repositories that share the master key.

    `parallel` is how many packs are on their way at once; each takes a buffer of a pack.
    """

    def __init__(
        self,
        source: Repository,
        destination: Repository,
        *,
        clock: Callable[[], float],
        parallel: int,
        progress: Progress,
        stop: threading.Event,
    ) -> None:
        if source.secrets != destination.secrets:
            raise WrongKeyError(
                f"{source.name} and {destination.name} do not share a key",
                hint="targets of one configuration are made by 'backupd init'; give the one that "
                "was not an empty place and run it",
            )
        self._source = source
        self._destination = destination
        self._clock = clock
        self._parallel = parallel
        self._progress = progress
        self._stop = stop
        self._index: Index | None = None
        self._index_read = 0.0
        self._buffers = threading.local()

    def copy(self, snapshots: Sequence[StoredSnapshot]) -> Iterator[TargetResult]:
        """Copy each snapshot, in the order given, and what became of it.

        The forecast is what each took where it was taken, until it is known what of it is
        missing here. Raises `TargetError` and `StoppedError`.
        """
        forecasts = [snapshot.record.stored_bytes for snapshot in snapshots]
        self._progress.begin(f"copy to {self._destination.name}", sum(forecasts))
        source_index = self._source.load_index(self._progress.note)
        reader = BlobReader(BlobFinder(self._source, source_index, self._progress.note))
        for snapshot, forecast in zip(snapshots, forecasts, strict=True):
            stored, why, cold = 0, "", False
            try:
                stored = self._copy_one(snapshot, reader, forecast)
            except DamagedError as error:
                why, cold = error.message, isinstance(error, ColdError)
            self._progress.advance(0, 1)
            record = snapshot.record
            yield TargetResult(
                self._destination.name, record.version, stored, why, model=record.model, cold=cold
            )

    def missing_bytes(self, snapshots: Iterable[StoredSnapshot]) -> Iterator[int]:
        """What each snapshot would bring over after those before it, in stored bytes."""
        source_index = self._source.load_index(self._progress.note)
        reader = BlobReader(BlobFinder(self._source, source_index, self._progress.note))
        there = self._destination.load_index(self._progress.note)
        counted: set[bytes] = set()
        for snapshot in snapshots:
            total = 0
            for needed in blobs_of(reader, snapshot.record):
                if needed.blob_id not in counted and there.find(needed.blob_id) is None:
                    counted.add(needed.blob_id)
                    location = reader.finder.find(needed.blob_id, plain=needed.plain)
                    total += location.record.sealed_size
            yield total

    def copy_labels(self, amendments: Iterable[SnapshotName]) -> None:
        """Hand on labels that were given later. The objects' names are part of their seals."""
        for amendment in amendments:
            name = amendment.object_name()
            stored = self._source.target.get(name, MAX_SNAPSHOT)
            self._destination.target.put_if_absent(name, [stored])

    def _copy_one(self, snapshot: StoredSnapshot, reader: BlobReader, forecast: int) -> int:
        """Copy the blobs that are missing, then list the snapshot; the bytes put."""
        name = snapshot.name.object_name()
        sealed = self._source.target.get(name, MAX_SNAPSHOT)
        writer = Writer(
            self._destination,
            self._receivers_index(),
            clock=self._clock,
            workers=1,
            parallel_puts=self._parallel,
            note=self._progress.note,
            stop=self._stop,
        )
        try:
            locations = list(_missing(snapshot, reader, writer))
            whole, parts = self._divided(locations, reader, writer)
            wanted = sum(location.record.sealed_size for location in locations)
            self._progress.grow(wanted - forecast)
            parts += self._copy_packs(whole, reader.finder.index, writer)
            self._copy_blobs(parts, reader, writer)
            writer.finish()
            writer.list_copy(snapshot.record, name, sealed)
        except BaseException:
            writer.abandon()
            raise
        if snapshot.amendment:
            folder, version = snapshot.name.folder, snapshot.name.version
            self.copy_labels([SnapshotName(folder, version, snapshot.amendment)])
        return writer.stored_bytes

    def _receivers_index(self) -> Index:
        now = self._clock()
        if self._index is None or not 0 <= now - self._index_read < _INDEX_SECONDS:
            self._index = self._destination.load_index(self._progress.note)
            self._index_read = now
        return self._index

    def _divided(
        self, locations: list[Location], reader: BlobReader, writer: Writer
    ) -> tuple[dict[bytes, list[Location]], list[Location]]:
        """The packs that are taken whole, with what is wanted of each, and all the rest."""
        by_pack: dict[bytes, list[Location]] = defaultdict(list)
        for location in locations:
            by_pack[location.pack_id].append(location)
        whole: dict[bytes, list[Location]] = {}
        parts: list[Location] = []
        for pack_id, wanted in by_pack.items():
            size = reader.finder.index.pack_size(pack_id)
            # Of many small blobs the pack's table is a good part, and comes with them.
            share = sum(location.record.sealed_size + RECORD.size for location in wanted)
            if share >= (size - OVERHEAD) * _WHOLE_SHARE and writer.may_take_over(pack_id):
                whole[pack_id] = wanted
            else:
                parts += wanted
        return whole, parts

    def _copy_packs(
        self, packs: dict[bytes, list[Location]], index: Index, writer: Writer
    ) -> list[Location]:
        """Copy packs whole; what was wanted of those that cannot be is to go blob by blob."""
        left: list[Location] = []

        def copy(pack_id: bytes, wanted: list[Location]) -> None:
            if self._stop.is_set() or failed.is_set():
                return
            try:
                whole = self._copy_pack(pack_id, index.pack_size(pack_id), writer)
            except (DamagedError, ObjectMissingError):
                whole = False  # another copy of what is hurt may lie elsewhere
            except BaseException:
                failed.set()
                raise
            if not whole:
                left.extend(wanted)
                return
            self._progress.advance(sum(location.record.sealed_size for location in wanted))

        failed = threading.Event()
        with ThreadPoolExecutor(self._parallel, thread_name_prefix="copy") as pool:
            under_way = [pool.submit(copy, *item) for item in packs.items()]
        for future in under_way:
            future.result()
        self._raise_stopped()
        return left

    def _copy_pack(self, pack_id: bytes, size_bytes: int, writer: Writer) -> bool:
        """Hand on a pack; false where it mixes what may go cold with what never does."""
        buffer = self._buffer(size_bytes)
        self._source.target.read_into(pack_name(pack_id), 0, buffer)
        table = table_within(buffer, pack_id, self._source.sealer)
        kinds = kinds_in(table)
        if BlobKind.DATA in kinds and len(kinds) > 1:
            return False
        writer.put_pack(pack_id, buffer, table, warm=BlobKind.DATA not in kinds)
        return True

    def _buffer(self, size_bytes: int) -> memoryview:
        """This thread's buffer, kept for the next pack."""
        kept: memoryview | None = getattr(self._buffers, "pack", None)
        if kept is None or len(kept) < size_bytes:
            kept = self._buffers.pack = kept_buffer(size_bytes)
        return kept[:size_bytes]

    def _copy_blobs(self, locations: list[Location], reader: BlobReader, writer: Writer) -> None:
        """Copy blobs into new packs, in the order in which they lie."""
        stream = writer.stream()
        for span in spans(locations):
            self._raise_stopped()
            for record in self._copy_span(span, reader, stream):
                # After the rest, as it takes the reader's buffer; from any copy that there is.
                plain = reader.read(record.blob_id)
                kind = BlobKind(record.kind)
                stream.store(record.blob_id, kind, framed(plain), record.plain_size)
            self._progress.advance(sum(record.sealed_size for record in span.records))
        stream.close()

    def _copy_span(self, span: Span, reader: BlobReader, stream: PackStream) -> list[BlobRecord]:
        """Copy the blobs of a span as they are sealed; those that are damaged."""
        try:
            sealed = reader.read_span(span)
        except DamagedError:
            return list(span.records)
        damaged = []
        for record in span.records:
            begin = record.offset - span.offset
            try:
                stream.copy(record, sealed[begin : begin + record.sealed_size])
            except DamagedError:
                damaged.append(record)
        return damaged

    def _raise_stopped(self) -> None:
        if self._stop.is_set():
            raise StoppedError("stopped; what was copied is kept, and the next run resumes")


def _missing(snapshot: StoredSnapshot, reader: BlobReader, writer: Writer) -> Iterator[Location]:
    """Where the blobs lie that the destination lacks, a base also where it has that as a delta."""
    plain: set[bytes] = set()
    for needed in blobs_of(reader, snapshot.record):
        blob_id = needed.blob_id
        wanted = writer.claim(blob_id)
        if needed.plain and blob_id not in plain:
            wanted = writer.find(blob_id, plain=True) is None
        if wanted:
            location = reader.finder.find(blob_id, plain=needed.plain)
            if not location.record.base_id:
                plain.add(blob_id)
            yield location
