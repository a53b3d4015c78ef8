"""One snapshot of one model: compare, read what changed, store it, list it, copy it on.

The steps stand in `take_snapshot`; what they need of the previous snapshot is in `previous`, how
files become blobs in `storing`.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial

from backupd import __version__
from backupd.capture.freeze import Freezer
from backupd.capture.scan import Scan, ScanOptions, SkipKind, Skipped
from backupd.capture.settle import asked_rules
from backupd.config.settings import LocalTarget, ModelSettings, NasTarget, S3Target
from backupd.errors import BackupdError, DamagedError, StoppedError, TargetError
from backupd.operations.capturing import Capture, MovedOnError
from backupd.operations.catalog import info_of
from backupd.operations.choosing import Choice
from backupd.operations.code import code_notes, kept_code, settle_code
from backupd.operations.fan_out import copy_on, highest_elsewhere
from backupd.operations.heads import read_head, was_cut_short
from backupd.operations.inspection import Inspection
from backupd.operations.installation import Installation
from backupd.operations.measuring import Measuring
from backupd.operations.previous import Previous
from backupd.operations.progress import NoProgress, Progress
from backupd.operations.reports import SnapshotReport, TargetResult
from backupd.operations.settle_plan import Plan, Settling
from backupd.operations.training_files import TrainingFiles
from backupd.operations.tree_cache import TreeCache
from backupd.operations.tree_sink import TreeSink
from backupd.repository.copying import StaleIndexError
from backupd.repository.repository import Repository
from backupd.repository.snapshots import SnapshotRecord, StoredSnapshot

# How often a pass starts over since the trainer wrote or deleted what it was about to read.
_MOST_MOVED = 2


@dataclass(frozen=True, slots=True)
class Past:
    """What an imported snapshot is of: its time (seconds since the epoch), and the folder that it
    is to be given back to."""

    time: float
    root: bytes

    def told_of(self, record: SnapshotRecord) -> SnapshotRecord:
        """The record as of then."""
        return replace(record, time=self.time, root=self.root)


def take_snapshot(
    installation: Installation,
    model: ModelSettings,
    *,
    labels: Mapping[str, str] | None = None,
    metrics: Mapping[str, float] | None = None,
    copy: bool = True,
    known_version: int = 0,
    step: int | None = None,
    epoch: float | None = None,
    settling: Settling | None = None,
    past: Past | None = None,
    progress: Progress | None = None,
    stop: threading.Event | None = None,
) -> SnapshotReport:
    """Snapshot a model into the nearest of its targets that can take it, and copy it to the others.

    Without `copy` the others are left to whoever called: the report names them as pending. With
    labels or metrics a snapshot is made even where nothing changed; its number is above
    `known_version`. `settling` says how long to wait for checkpoint files that are being written;
    without it as long as one who asks would. `past` says what it is of where that is not the
    present state of the model's own folder. A target that fails is named in the report; the call
    raises only where no target took the snapshot, where the model cannot be read at all,
    `NotSettledError` and `StoppedError`.
    """
    progress = progress or NoProgress()
    stop = stop or threading.Event()
    if was_cut_short(installation.settings, model.name):
        from backupd.operations.swapping import recover

        recover(installation, model.name, progress.note)
    failed: dict[str, BackupdError] = {}
    request = _Request(
        installation,
        model,
        labels or {},
        metrics or {},
        step,
        epoch,
        settling or Settling(asked_rules(model.settle_seconds)),
        known_version,
        past,
        progress,
        stop,
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
        notes=(*outcome.notes(), *settled.notes),
        retry=settled.retry,
        incomplete=tuple(str(item) for item in outcome.left_out if item.missing),
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
    step: int | None
    epoch: float | None
    settling: Settling
    known_version: int
    past: Past | None
    progress: Progress
    stop: threading.Event

    @property
    def says_something(self) -> bool:
        """Whether a snapshot is wanted even where nothing changed."""
        return bool(self.labels or self.metrics)


@dataclass(slots=True)
class _Outcome:
    stored: StoredSnapshot
    unchanged: bool
    left_out: list[Skipped]

    def notes(self) -> list[str]:
        """What the user should see. Of an unchanged model secrets were told before."""
        if self.unchanged:
            return [str(item) for item in self.left_out if item.kind is not SkipKind.SECRET]
        return [*map(str, self.left_out), *code_notes(self.stored.record)]


def _lowest_version(request: _Request, primary: str) -> int:
    """The lowest number that no target has had, as far as is known and can be asked."""
    others = [name for name in request.model.targets if name != primary]
    elsewhere = highest_elsewhere(request.installation, request.model, others)
    return 1 + max(request.known_version, elsewhere)


def _snapshot_into(repository: Repository, request: _Request) -> _Outcome:
    """Passes over the folder until one finds what it was promised; nearly always one or two.

    The first pass ends at the first checkpoint file that is new: only then is there something
    that has to settle.
    """
    installation, model = request.installation, request.model
    root = bytes(model.path)
    options = ScanOptions(model.exclude, model.one_filesystem)
    cache = TreeCache.of_model(installation, repository, model.name)
    plan: Plan | None = None
    moved = 0
    with closing(Freezer(root)) as freezer:
        while True:
            previous = Previous.newest(
                repository,
                installation.settings.host,
                model.name,
                cache,
                request.progress.note,
                scheme=model.scheme,
                head=read_head(installation, model.name),
            )
            one_pass = _Pass(repository, previous, cache, root, options, freezer)
            try:
                return _pass_over(one_pass, request, plan, last=moved >= _MOST_MOVED)
            except MovedOnError:
                moved += plan is not None
            # Imported here: an unchanged model needs none of it.
            from backupd.operations.settling import settle

            plan = settle(
                root,
                options,
                previous,
                request.settling,
                clock=installation.clock,
                progress=request.progress,
                stop=request.stop,
            )


@dataclass(frozen=True, slots=True)
class _Pass:
    """What one pass over the folder works with."""

    repository: Repository
    previous: Previous
    cache: TreeCache
    root: bytes
    options: ScanOptions
    freezer: Freezer


def _pass_over(one: _Pass, request: _Request, plan: Plan | None, *, last: bool) -> _Outcome:
    """The steps of a snapshot on one target. Raises `MovedOnError`."""
    installation, model = request.installation, request.model
    previous, progress = one.previous, request.progress
    started = installation.clock()
    progress.begin("store")
    since = previous.snapshot.record.time if previous.snapshot else 0.0
    measuring = Measuring(one.root, one.options, since, progress)
    with Scan(one.root, one.options) as scan:
        choice = Choice(model.scheme, model.roles, scan)
        parent = previous.snapshot.record if previous.snapshot else None
        inspection = Inspection(scan, parent, include_secrets=model.include_secrets)
        sink = TreeSink(
            one.repository,
            previous,
            one.cache,
            scan,
            near=not isinstance(installation.settings.targets[one.repository.name], S3Target),
            suspects=inspection.suspects,
            clock=installation.clock,
            workers=installation.settings.limits.threads,
            parallel_puts=_parallel_puts(installation, one.repository),
            progress=progress,
            stop=request.stop,
        )
        capture = Capture(
            scan,
            sink,
            inspection,
            plan,
            freezer=one.freezer,
            clock=installation.clock,
            stop=request.stop,
            previous_version=previous.snapshot.record.version if previous.snapshot else 0,
            last=last,
            keep_torn=model.keep_torn,
        )
        training = TrainingFiles(scan)
        try:
            capture.freeze()
            for item, before in previous.beside(scan, capture.keep_lost):
                if request.stop.is_set():
                    raise StoppedError(
                        "stopped; what was stored is kept, and the next snapshot resumes"
                    )
                if isinstance(item, Skipped):
                    capture.skip(item)
                    continue
                training.see(item)
                if choice.leaves(item):
                    capture.pass_over(item, before)
                elif secret := inspection.leaves(item):
                    capture.left_out.append(secret)
                    capture.pass_over(item, before)
                elif before is not None and before.matches(item) and inspection.knows(item, before):
                    sink.keep(before)
                else:
                    measuring.before(item)
                    capture.take(item, before)
            capture.check_sets()
            trees = sink.finish()
            changed = sink.changed or previous.lost_entries or not previous.is_of(model.scheme)
            changed = changed or request.says_something
            if not changed and previous.snapshot is not None:
                sink.abandon()
                return _Outcome(previous.snapshot, True, capture.left_out)
            record = _record(request, previous, sink, trees, capture.left_out, started)
            record = replace(
                _standing(record, training),
                scheme=choice.scheme,
                left_out=choice.left_out(),
                ancestry=previous.ancestry(),
                findings=inspection.findings(),
                secrets=inspection.secrets,
            )
            if request.past is not None:
                record = request.past.told_of(record)
            lowest = partial(_lowest_version, request, one.repository.name)
            with kept_code(installation, model, sink, record, parent) as code:
                stored = sink.commit(code.record, lowest, code.complete)
        except BaseException:
            sink.abandon()
            raise
        finally:
            capture.close()
    return _Outcome(stored, False, capture.left_out)


def _standing(record: SnapshotRecord, training: TrainingFiles) -> SnapshotRecord:
    """The record with what the training's files tell and nobody said."""
    found = training.standing()
    if found is None:
        return record
    return replace(
        record,
        step=found.step if record.step is None else record.step,
        epoch=found.epoch if record.epoch is None else record.epoch,
        metrics={**found.metrics, **record.metrics},
    )


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
        config=installation.settings.kept_text,
        config_path=str(installation.settings.source) if installation.settings.kept_text else "",
        step=request.step,
        epoch=request.epoch,
    )


def _parallel_puts(installation: Installation, repository: Repository) -> int:
    """Packs put behind the workers: a disk gains nothing by it, a store far away does."""
    settings = installation.settings.targets[repository.name]
    return 0 if isinstance(settings, LocalTarget | NasTarget) else 4
