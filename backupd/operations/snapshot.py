"""One snapshot of one model: compare, read what changed, store it, list it, copy it on.

The steps stand in `take_snapshot`; what they need of the previous snapshot is in `previous`, how
files become blobs in `storing`.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial

from backupd import __version__
from backupd.capture.reading import open_for_capture, read_small
from backupd.capture.scan import LeftOutError, Scan, Scanned, ScanOptions, SkipKind, Skipped
from backupd.config.settings import LocalTarget, ModelSettings, NasTarget, S3Target
from backupd.errors import BackupdError, DamagedError, StoppedError, TargetError
from backupd.operations.catalog import info_of
from backupd.operations.choosing import Choice
from backupd.operations.code import code_notes, kept_code, settle_code
from backupd.operations.fan_out import copy_on, highest_elsewhere
from backupd.operations.heads import read_head, was_cut_short
from backupd.operations.inspection import Inspection
from backupd.operations.installation import Installation
from backupd.operations.measuring import Measuring
from backupd.operations.previous import Previous, PreviousEntry, same_but_for_inode
from backupd.operations.progress import NoProgress, Progress
from backupd.operations.reports import SnapshotReport, TargetResult
from backupd.operations.tree_cache import TreeCache
from backupd.operations.tree_sink import IDENTIFIED_BYTES, KeptFile, TreeSink
from backupd.repository.copying import StaleIndexError
from backupd.repository.repository import Repository, StoredSnapshot
from backupd.repository.snapshots import SnapshotRecord
from backupd.repository.tree import FileType, TreeEntry

# How often a file that changes while it is read is read again, and how long is waited before.
_READINGS = 4
_PAUSE_SECONDS = 0.25


def take_snapshot(
    installation: Installation,
    model: ModelSettings,
    *,
    labels: Mapping[str, str] | None = None,
    metrics: Mapping[str, float] | None = None,
    copy: bool = True,
    known_version: int = 0,
    progress: Progress | None = None,
    stop: threading.Event | None = None,
) -> SnapshotReport:
    """Snapshot a model into the nearest of its targets that can take it, and copy it to the others.

    Without `copy` the others are left to whoever called: the report names them as pending. With
    labels or metrics a snapshot is made even where nothing changed; its number is above
    `known_version`. A target that fails is named in the report; the call raises only where no
    target took the snapshot, where the model cannot be read at all, and `StoppedError`.
    """
    progress = progress or NoProgress()
    stop = stop or threading.Event()
    if was_cut_short(installation, model.name):
        from backupd.operations.swapping import recover

        recover(installation, model.name, progress.note)
    failed: dict[str, BackupdError] = {}
    request = _Request(
        installation, model, labels or {}, metrics or {}, known_version, progress, stop
    )
    for primary in installation.nearest_first(model.targets):
        try:
            outcome = _snapshot_on(primary, request)
            break
        except (TargetError, DamagedError) as error:
            failed[primary] = error
    else:
        raise next(iter(failed.values()))
    others = [name for name in installation.nearest_first(model.targets) if name != primary]
    reachable = [name for name in others if name not in failed]
    record = outcome.stored.record
    settled = settle_code(installation, model, record)
    results = [
        TargetResult(name, 0, 0, error.message, model=model.name) for name, error in failed.items()
    ]
    if not outcome.unchanged:
        results.append(TargetResult(primary, record.version, record.stored_bytes, model=model.name))
    if copy:
        results += copy_on(
            installation, model, reachable, newest=record.version, progress=progress, stop=stop
        )
    elif not outcome.unchanged:
        results += [
            TargetResult(name, record.version, 0, model=model.name, pending=True)
            for name in reachable
        ]
    missing = {result.target for result in results if result.error or result.pending}
    sure = [primary, *(reachable if copy else ())]
    whole_on = [name for name in model.targets if name in sure and name not in missing]
    return SnapshotReport(
        model=model.name,
        unchanged=outcome.unchanged,
        snapshot=info_of(outcome.stored, whole_on),
        targets=tuple(results),
        notes=(*outcome.notes, *settled.notes),
        retry=settled.retry,
    )


def _snapshot_on(name: str, request: _Request) -> _Outcome:
    """The snapshot on one target, begun anew where the index turned out to be old."""
    repository = request.installation.repository(name)
    try:
        return _snapshot_into(repository, request)
    except StaleIndexError as error:
        request.progress.note(f"{error.message}; starting over")
        return _snapshot_into(repository, request)


@dataclass(frozen=True, slots=True)
class _Request:
    installation: Installation
    model: ModelSettings
    labels: Mapping[str, str]
    metrics: Mapping[str, float]
    known_version: int
    progress: Progress
    stop: threading.Event


@dataclass(slots=True)
class _Outcome:
    stored: StoredSnapshot
    unchanged: bool
    notes: list[str]


def _lowest_version(request: _Request, primary: str) -> int:
    """The lowest number that no target has had, as far as is known and can be asked."""
    others = [name for name in request.model.targets if name != primary]
    elsewhere = highest_elsewhere(request.installation, request.model, others)
    return 1 + max(request.known_version, elsewhere)


def _snapshot_into(repository: Repository, request: _Request) -> _Outcome:
    """The steps of a snapshot on one target."""
    installation, model = request.installation, request.model
    started = installation.clock()
    progress = request.progress
    host = installation.settings.host
    cache = TreeCache.of_model(installation, repository, model.name)
    previous = Previous.newest(
        repository,
        host,
        model.name,
        cache,
        progress.note,
        scheme=model.scheme,
        head=read_head(installation, model.name),
    )
    left_out: list[Skipped] = []
    progress.begin("store")
    options = ScanOptions(model.exclude, model.one_filesystem)
    root = bytes(model.path)
    since = previous.snapshot.record.time if previous.snapshot else 0.0
    with Scan(root, options) as scan, Measuring(root, options, since, progress):
        choice = Choice(model.scheme, model.roles, scan)
        parent = previous.snapshot.record if previous.snapshot else None
        inspection = Inspection(scan, parent, include_secrets=model.include_secrets)
        sink = TreeSink(
            repository,
            previous,
            cache,
            scan,
            near=not isinstance(installation.settings.targets[repository.name], S3Target),
            clock=installation.clock,
            workers=installation.settings.limits.threads,
            parallel_puts=_parallel_puts(installation, repository),
            progress=progress,
            stop=request.stop,
        )
        try:
            for item, before in previous.beside(scan):
                if request.stop.is_set():
                    raise StoppedError(
                        "stopped; what was stored is kept, and the next snapshot resumes"
                    )
                if isinstance(item, Skipped):
                    left_out.append(item)
                elif choice.leaves(item):
                    sink.changed = sink.changed or before is not None
                elif secret := inspection.leaves(item):
                    left_out.append(secret)
                    sink.changed = sink.changed or before is not None
                elif before is not None and before.matches(item) and inspection.knows(item, before):
                    sink.keep(before)
                else:
                    _capture(scan, item, before, sink, left_out, request, inspection)
            trees = sink.finish()
            changed = sink.changed or previous.lost_entries or not previous.is_of(model.scheme)
            changed = changed or bool(request.labels or request.metrics)
            if not changed and previous.snapshot is not None:
                sink.abandon()
                still = [item for item in left_out if item.kind is not SkipKind.SECRET]
                return _Outcome(previous.snapshot, True, _notes(still))
            record = _record(request, previous, sink, trees, left_out, started)
            record = replace(
                record,
                scheme=choice.scheme,
                left_out=choice.left_out(),
                ancestry=previous.ancestry(),
                findings=inspection.findings(),
                secrets=inspection.secrets,
            )
            lowest = partial(_lowest_version, request, repository.name)
            with kept_code(installation, model, sink, record, parent) as code:
                stored = sink.commit(code.record, lowest, code.complete)
        except BaseException:
            sink.abandon()
            raise
    return _Outcome(stored, False, [*_notes(left_out), *code_notes(stored.record)])


def _record(
    request: _Request,
    previous: Previous,
    sink: TreeSink,
    trees: tuple[bytes, ...],
    left_out: list[Skipped],
    started: float,
) -> SnapshotRecord:
    installation, model = request.installation, request.model
    return SnapshotRecord(
        host=installation.settings.host,
        model=model.name,
        version=0,
        time=started,
        root=bytes(model.path),
        trees=trees,
        parent=previous.snapshot.record.version if previous.snapshot else 0,
        project=model.project,
        labels=request.labels,
        metrics=request.metrics,
        file_count=sink.file_count,
        folder_count=sink.folder_count,
        size_bytes=sink.size_bytes,
        added_bytes=sink.added_bytes,
        stored_bytes=sink.stored_bytes,
        duration_seconds=round(installation.clock() - started, 3),
        incomplete=tuple(str(item) for item in left_out if item.missing),
        skipped=tuple(str(item) for item in left_out if not item.missing),
        made_by=f"backupd {__version__}",
    )


def _capture(
    scan: Scan,
    item: Scanned,
    before: PreviousEntry | None,
    sink: TreeSink,
    left_out: list[Skipped],
    request: _Request,
    inspection: Inspection,
) -> None:
    """Take in a path that is new or looks changed."""
    now_ns = int(request.installation.clock() * 1e9)
    try:
        if item.type is FileType.FILE:
            size = item.stat.st_size
            # A file with holes has fewer blocks than bytes (512: see stat(2)).
            if size < IDENTIFIED_BYTES and item.stat.st_blocks * 512 >= size:
                frame = sink.small_frame(size)
                metadata = read_small(scan, item, frame, now_ns=now_ns, skipped=left_out)
                if metadata is not None:
                    inspection.small(item.path, frame)
                    sink.add_small(item.path, metadata, before)
                    return
            _capture_file(scan, item, before, sink, left_out, request, inspection)
            return
        kept = scan.metadata(item, now_ns=now_ns, skipped=left_out)
    except LeftOutError as error:
        left_out.append(error.skipped)
        inspection.forget(item.path)
        scan.release_link(item)
        sink.changed = sink.changed or before is not None
        return
    entry = TreeEntry(item.path, item.type, kept, item.link)
    if before is None or not same_but_for_inode(before.entry, entry):
        sink.changed = True
    sink.add(entry)


def _capture_file(
    scan: Scan,
    item: Scanned,
    before: PreviousEntry | None,
    sink: TreeSink,
    left_out: list[Skipped],
    request: _Request,
    inspection: Inspection,
) -> None:
    """Read a file, again where it changed meanwhile, and give up on one that never holds still.

    Raises `LeftOutError`.
    """
    for reading in range(_READINGS):
        if reading and request.stop.wait(_PAUSE_SECONDS * reading):
            break
        with open_for_capture(scan, item) as file:
            now_ns = int(request.installation.clock() * 1e9)
            notes: list[Skipped] = []
            metadata = scan.metadata(item, now_ns=now_ns, skipped=notes, fd=file.fd, stat=file.stat)
            extents = file.extents()
            inspection.file(item.path, file)
            stored = sink.read(file, extents)
            if file.unchanged():
                left_out.extend(notes)
                sink.accept(stored, KeptFile(item.path, metadata, extents, before))
                return
    raise LeftOutError(
        Skipped(
            item.path,
            SkipKind.CHANGING,
            f"changed each of the {_READINGS} times it was read, so it was left out",
        )
    )


def _notes(left_out: list[Skipped]) -> list[str]:
    return [str(item) for item in left_out]


def _parallel_puts(installation: Installation, repository: Repository) -> int:
    """Packs put behind the workers: a disk gains nothing by it, a store far away does."""
    settings = installation.settings.targets[repository.name]
    return 0 if isinstance(settings, LocalTarget | NasTarget) else 4
