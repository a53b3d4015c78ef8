"""The pipeline that restores files: chunks are gathered in waves, packs are read in their order.

A wave is bounded in chunks, so memory does not depend on a model's size: about half a kilobyte
a chunk of the wave, and two buffers of a blob's most bytes (some 8 MiB) a thread.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain
from types import TracebackType

from blake3 import blake3

from backupd.capture.folders import shown
from backupd.codec.blob import Buffer
from backupd.errors import (
    BackupdError,
    DamagedError,
    StoppedError,
    TargetUnreachableError,
)
from backupd.operations.placement import Placement, RestoreRoot
from backupd.operations.placement_errors import PlacementError
from backupd.operations.placement_file import PlacedFile
from backupd.operations.progress import Progress
from backupd.repository.index import Location
from backupd.repository.planned_reads import PlannedReads
from backupd.repository.reachable import chunks_of, placed_chunks
from backupd.repository.read_order import Family, Span, families, spans
from backupd.repository.reader import BlobFinder, BlobReader
from backupd.repository.records import BlobRecord
from backupd.repository.tree import TreeEntry

_WAVE_CHUNKS = 8192
_WAVE_OPEN_FILES = 256  # files of several chunks may all be open at once; descriptors are few
_HASH_BYTES = 1 << 20
# Blobs below this in the mean are restored by the caller's thread: their time is mostly Python's,
# which threads cannot share.
_SMALL_BLOB = 64 << 10


@dataclass(slots=True, eq=False)
class _File:
    """A file on its way back. `waiting` counts chunks; `whole` says that all were given out.

    `writers` counts the threads that are writing to it: only the last to leave a failed file
    may close it, as its descriptor's number may be another file's a moment later.
    """

    entry: TreeEntry
    placed: PlacedFile | None = None
    waiting: int = 0
    writers: int = 0
    whole: bool = False
    failed: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)

    def leave(self) -> None:
        """One thread has written."""
        with self.lock:
            self.writers -= 1
            self._close_if_failed()

    def fail(self) -> None:
        """Something of it cannot be given."""
        with self.lock:
            self.failed = True
            self._close_if_failed()

    def _close_if_failed(self) -> None:
        if self.failed and not self.writers and self.placed is not None:
            self.placed.abandon()


@dataclass(frozen=True, slots=True)
class _Place:
    """Where in which file a chunk belongs."""

    file: _File
    offset: int


class FileRestorer:
    """Restores files below a root; a context manager that ends its threads.

    One thread calls `add`; leaving the context restores what is left. Paths that cannot be
    given go into `failed`.
    """

    def __init__(
        self,
        finder: BlobFinder,
        place: RestoreRoot,
        *,
        threads: int,
        waiting: int = 0,
        failed: dict[str, str],
        progress: Progress,
        stop: threading.Event,
    ) -> None:
        """`threads` decode and write at once; `waiting` more have reads on their way, for a
        target that is far."""
        self.restored_files = 0
        self.restored_bytes = 0
        self.skipped_files = 0
        self._finder = finder
        self._place = place
        self._failed = failed
        self._progress = progress
        self._stop = stop
        self._wave: dict[bytes, list[_Place]] = {}
        self._wave_chunks = 0
        self._wave_files = 0
        self._lock = threading.Lock()
        self._failure: BaseException | None = None
        self._decoding = threading.Semaphore(threads)
        self._far = waiting > 0
        self._reads: queue.Queue[Span | Family | None] = queue.Queue(maxsize=2 * threads)
        self._threads = [
            threading.Thread(target=self._work, name=f"restore-{number}", daemon=True)
            for number in range(threads + waiting)
        ]
        self._own_reader = BlobReader(finder)
        self._hash_buffer = memoryview(bytearray(_HASH_BYTES))
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> FileRestorer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if error is None:
                self._run_wave()
        finally:
            for _ in self._threads:
                self._reads.put(None)
            for thread in self._threads:
                thread.join()
            self._abandon_wave()
        if error is None:
            self._raise_failure()

    # -- the caller's side --------------------------------------------------------------------

    def add(self, entry: TreeEntry, reader: BlobReader) -> None:
        """Restore one file, now or with the wave. Raises `PlacementError`, `DamagedError`."""
        if self._place.classify(entry) is Placement.SAME and self._is_right(entry):
            self.skipped_files += 1
            self._progress.advance(entry.metadata.size_bytes, 1)
            return
        file = _File(entry)
        try:
            for ref, offset in placed_chunks(entry, chunks_of(reader, entry)):
                self._wave.setdefault(ref.blob_id, []).append(_Place(file, offset))
                file.waiting += 1
                self._wave_chunks += 1
                if self._wave_chunks >= _WAVE_CHUNKS:
                    self._run_wave()
        except DamagedError as error:
            self._fail(file, error)
            return
        file.whole = True
        if not file.waiting and not file.failed:
            self._finish(file)
        elif file.waiting > 1:
            self._wave_files += 1
            if self._wave_files >= _WAVE_OPEN_FILES:
                self._run_wave()

    def _is_right(self, entry: TreeEntry) -> bool:
        """Whether what is in the file's place has the content that the snapshot says."""
        descriptor = self._place.open_existing(entry)
        try:
            return is_right(descriptor, entry, self._hash_buffer)
        finally:
            os.close(descriptor)

    def _run_wave(self) -> None:
        """Read all chunks of the wave and wait until they are written.

        Pack by pack, but for deltas that share a base: each base is opened once a wave.
        """
        wave = self._wave
        locations = []
        for blob_id, places in wave.items():
            try:
                locations.append(self._finder.find(blob_id))
            except DamagedError as error:
                self._give_up(places, error.message)
        # Where runs are planned, a small delta costs no read of its own.
        shared, others = families(locations, least=0) if self._far else families(locations)
        if self._far:
            self._finder.planned = self._plan(shared, locations)
        reads: Iterator[Span | Family] = chain(shared, spans(others))
        for read in reads:
            self._raise_failure()
            if self._stop.is_set():
                raise StoppedError("stopped; run the restore again to go on where it ended")
            if isinstance(read, Span) and read.size_bytes < _SMALL_BLOB * len(read.records):
                self._restore_span(self._own_reader, read)
            else:
                self._reads.put(read)
        self._reads.join()
        self._raise_failure()
        self._finder.planned = None
        self._wave = {}
        self._wave_chunks = 0
        self._wave_files = 0

    def _plan(self, shared: list[Family], locations: list[Location]) -> PlannedReads:
        """The reads that fetch families, which do not lie together; the rest is merged as it is."""
        wanted = {record for family in shared for span in family.deltas for record in span.records}
        found = [location for location in locations if location.record in wanted]
        for family in shared:
            try:
                found.append(self._finder.find(family.base_id, plain=True))
            except DamagedError:
                continue  # who reads the deltas says so
        return PlannedReads(self._finder.repository.target, found)

    def _abandon_wave(self) -> None:
        for places in self._wave.values():
            for place in places:
                if place.file.placed is not None:
                    place.file.placed.abandon()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    # -- the workers' side --------------------------------------------------------------------

    def _work(self) -> None:
        reader = BlobReader(self._finder)
        while True:
            read = self._reads.get()
            try:
                if read is None:
                    return
                if isinstance(read, Family):
                    self._restore_family(reader, read)
                elif not self._ending():
                    self._restore_span(reader, read)
            except BaseException as error:
                self._failure = error
            finally:
                self._reads.task_done()

    def _ending(self) -> bool:
        return self._failure is not None or self._stop.is_set()

    def _restore_family(self, reader: BlobReader, family: Family) -> None:
        if self._ending():
            return
        try:
            chunk = reader.hold_base(family.base_id)
        except DamagedError:
            # The deltas are tried all the same: each tells what is wrong with it.
            if family.wanted:
                self._restore_from_any_copy(reader, family.base_id)
        else:
            if family.wanted:
                self._write_everywhere(family.base_id, chunk)
        for span in family.deltas:
            if self._ending():
                return
            self._restore_span(reader, span)

    def _restore_span(self, reader: BlobReader, span: Span) -> None:
        try:
            sealed = reader.read_span(span)
        except DamagedError:
            # Some of a run may still be readable, as when a pack was cut short.
            again = list(span.records)
        else:
            with self._decoding:
                again = self._write_span(reader, span, sealed)
        # After the rest, as it takes the reader's buffer.
        for record in again:
            self._restore_from_any_copy(reader, record.blob_id)

    def _write_span(self, reader: BlobReader, span: Span, sealed: memoryview) -> list[BlobRecord]:
        """Write what a span holds; the blobs that could not be opened."""
        damaged = []
        for record in span.records:
            begin = record.offset - span.offset
            try:
                chunk = reader.open(record, sealed[begin : begin + record.sealed_size])
            except DamagedError:
                damaged.append(record)
                continue
            self._write_everywhere(record.blob_id, chunk)
        return damaged

    def _restore_from_any_copy(self, reader: BlobReader, blob_id: bytes) -> None:
        try:
            chunk = reader.read(blob_id)
        except TargetUnreachableError:
            raise
        except BackupdError as error:
            self._give_up(self._wave[blob_id], error.message)
        else:
            self._write_everywhere(blob_id, chunk)

    def _write_everywhere(self, blob_id: bytes, chunk: Buffer) -> None:
        for place in self._wave[blob_id]:
            self._write(place, chunk)

    def _write(self, place: _Place, chunk: Buffer) -> None:
        file = place.file
        try:
            with file.lock:
                if file.failed:
                    return
                if file.placed is None:
                    file.placed = self._place.begin_file(file.entry)
                file.writers += 1
            try:
                file.placed.pwrite(chunk, place.offset)
            finally:
                file.leave()
            self._progress.advance(len(chunk))
            with file.lock:
                file.waiting -= 1
                done = file.whole and not file.waiting and not file.failed
            if done:
                self._finish(file)
        except BackupdError as error:
            self._fail(file, error)

    def _finish(self, file: _File) -> None:
        if file.placed is None:
            file.placed = self._place.begin_file(file.entry)
        file.placed.finish()
        with self._lock:
            self.restored_files += 1
            self.restored_bytes += file.entry.metadata.size_bytes

    def _give_up(self, places: list[_Place], why: str) -> None:
        for place in places:
            self._fail(place.file, DamagedError(why))

    def _fail(self, file: _File, error: BackupdError) -> None:
        if isinstance(error, PlacementError) and error.fatal:
            raise error
        file.fail()
        with self._lock:
            why = error.reason if isinstance(error, PlacementError) else error.message
            self._failed.setdefault(shown(file.entry.path), why)


def is_right(descriptor: int, entry: TreeEntry, buffer: memoryview) -> bool:
    """Whether an open file has the content that the entry of a FILE says; reads into `buffer`."""
    hasher = blake3()
    try:
        if os.fstat(descriptor).st_size != entry.metadata.size_bytes:
            return False
        for start, length in entry.extents or ((0, entry.metadata.size_bytes),):
            offset, end = start, start + length
            while offset < end:
                wanted = buffer[: min(len(buffer), end - offset)]
                got = os.preadv(descriptor, [wanted], offset)
                if not got:
                    return False
                hasher.update(wanted[:got])
                offset += got
    except OSError:
        return False  # a file that cannot be read is not right, and is given anew
    return hasher.digest() == entry.content_hash
