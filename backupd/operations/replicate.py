"""Copying snapshots from one target to another, as sealed blobs that nobody opens.

All targets share the master key, so a blob that is sealed for one is sealed for all; only tree
blobs and chunk lists are opened, to learn what a snapshot needs.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator

from backupd.errors import DamagedError, StoppedError, WrongKeyError
from backupd.operations.installation import Installation
from backupd.operations.progress import NoProgress, Progress
from backupd.operations.reports import TargetResult
from backupd.repository.index import Location
from backupd.repository.layout import MAX_SNAPSHOT
from backupd.repository.reachable import blobs_of
from backupd.repository.read_order import spans
from backupd.repository.reader import BlobFinder, BlobReader
from backupd.repository.repository import Repository, StoredSnapshot
from backupd.repository.writer import Writer


def replicate(
    installation: Installation,
    source: str,
    destination: str,
    *,
    models: Iterable[str] | None = None,
    progress: Progress | None = None,
    stop: threading.Event | None = None,
) -> list[TargetResult]:
    """Copy what came to `source` since `destination` had its last, oldest first.

    Of each model that is what has a higher version than any that `destination` ever listed: an
    older one that is not there was forgotten there. The answer is what became of each snapshot.
    Raises `TargetError` where one of the two cannot be reached, and `StoppedError`.
    """
    copier = Copier(
        installation.repository(source),
        installation.repository(destination),
        clock=installation.clock,
        parallel_puts=2,
        progress=progress or NoProgress(),
        stop=stop or threading.Event(),
    )
    wanted = None if models is None else frozenset(models)
    listing = installation.repository(source).list_snapshots()
    highest = installation.repository(destination).list_snapshots().highest
    chosen = [
        snapshot
        for snapshot in listing.snapshots
        if (wanted is None or snapshot.record.model in wanted)
        and snapshot.record.version > highest.get(snapshot.name.folder, 0)
    ]
    return list(copier.copy(sorted(chosen, key=lambda snapshot: snapshot.record.time)))


def replicate_model(
    source: Repository,
    destination: Repository,
    *,
    host: str,
    model: str,
    clock: Callable[[], float],
    parallel_puts: int,
    progress: Progress,
    stop: threading.Event,
) -> Iterator[TargetResult]:
    """As `replicate`, for one model of one host, whose versions are looked at by name first."""
    folder = source.secrets.model_folder(host, model)
    highest = destination.highest_version(folder)
    listing = source.list_snapshots(folder)
    # Older ones that are not there were forgotten there by its own policy.
    missing = [s for s in listing.snapshots if s.record.version > highest]
    if missing:
        copier = Copier(
            source,
            destination,
            clock=clock,
            parallel_puts=parallel_puts,
            progress=progress,
            stop=stop,
        )
        yield from copier.copy(missing)


class Copier:
    """Copies snapshots between two repositories that share the master key."""

    def __init__(
        self,
        source: Repository,
        destination: Repository,
        *,
        clock: Callable[[], float],
        parallel_puts: int,
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
        self._parallel_puts = parallel_puts
        self._progress = progress
        self._stop = stop

    def copy(self, snapshots: Iterable[StoredSnapshot]) -> Iterator[TargetResult]:
        """Copy each snapshot that the destination does not list. Raises `TargetError`."""
        self._progress.begin(f"copy to {self._destination.name}")
        source_index = self._source.load_index(self._progress.note)
        reader = BlobReader(BlobFinder(self._source, source_index, self._progress.note))
        for snapshot in snapshots:
            name = snapshot.name.object_name()
            version = snapshot.record.version
            if self._destination.target.stat(name) is not None:
                continue
            try:
                stored = self._copy_one(snapshot, reader)
                yield TargetResult(self._destination.name, version, stored)
            except DamagedError as error:
                yield TargetResult(self._destination.name, version, 0, error.message)

    def _copy_one(self, snapshot: StoredSnapshot, reader: BlobReader) -> int:
        """Copy the blobs that are missing, then list the snapshot; the bytes put."""
        name = snapshot.name.object_name()
        sealed = self._source.target.get(name, MAX_SNAPSHOT)
        index = self._destination.load_index(self._progress.note)
        writer = Writer(
            self._destination,
            index,
            clock=self._clock,
            workers=1,
            parallel_puts=self._parallel_puts,
            note=self._progress.note,
            stop=self._stop,
        )
        try:
            locations = list(_missing(snapshot, reader, writer))
            self._progress.grow(sum(location.record.sealed_size for location in locations))
            stream = writer.stream()
            for span in spans(locations):
                if self._stop.is_set():
                    raise StoppedError("stopped; what was copied is kept, and the next run resumes")
                sealed_span = reader.read_span(span)
                for record in span.records:
                    begin = record.offset - span.offset
                    stream.copy(record, sealed_span[begin : begin + record.sealed_size])
                    self._progress.advance(record.sealed_size)
            stream.close()
            writer.finish()
            writer.list_copy(snapshot.record, name, sealed)
        except BaseException:
            writer.abandon()
            raise
        return writer.stored_bytes


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
