"""Extending the Object Lock of what the listed snapshots need, before it runs out.

What no snapshot needs any more is left alone: its lock runs out, and prune takes it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from backupd.config.settings import S3Target
from backupd.errors import (
    DamagedError,
    ObjectMissingError,
    StoppedError,
    TargetError,
    UsageError,
)
from backupd.operations.installation import Installation
from backupd.operations.progress import NoProgress, Progress
from backupd.repository import layout
from backupd.repository.reader import BlobFinder, BlobReader
from backupd.repository.repository import Repository
from backupd.repository.snapshots import parse_name
from backupd.repository.trees_ahead import with_trees_ahead
from backupd.repository.usage import Usage
from backupd.targets.base import ObjectInfo

_DAY_SECONDS = 86_400.0
_THREADS = 16
_NAMED = 20


@dataclass(frozen=True, slots=True)
class ExtendReport:
    """What extend did on one target, or with dry run would do.

    `needed` objects are to be held; of these `extended` had less than half of their time left.
    They are held until `until` (seconds since the epoch). `problems` says which could not be.
    """

    target: str
    needed: int
    extended: int
    extended_bytes: int
    until: float
    dry_run: bool
    problems: tuple[str, ...] = ()


def extend(
    installation: Installation,
    target: str,
    *,
    everything: bool = False,
    dry_run: bool = False,
    progress: Progress | None = None,
    stop: threading.Event | None = None,
) -> ExtendReport:
    """Hold what the snapshots listed on `target` need for `object_lock.days` from now on.

    What was stored within the first half of that time has the other half left and is not asked
    for, which costs nothing; with `everything` it is, as for objects that were stored before
    `object_lock` was set. Raises `UsageError` where the target has no `object_lock`,
    `TargetError` where it cannot be reached or holds nothing, and `StoppedError`.
    """
    progress = progress or NoProgress()
    stop = stop or threading.Event()
    settings = locked_settings(installation, target)
    from backupd.targets.s3_lock_probe import refuse_without_lock

    repository = installation.repository(target)
    now = installation.clock()
    # What it was when the repository was made it need not be any more.
    refuse_without_lock(settings, now=now)
    until = now + settings.object_lock_days * _DAY_SECONDS
    enough = now + settings.object_lock_days * _DAY_SECONDS / 2
    problems: list[str] = []
    progress.begin("look at snapshots")
    needed = list(needed_objects(repository, problems, progress, stop))
    old = settings.object_lock_days * _DAY_SECONDS / 2
    asked = needed if everything else [i for i in needed if now - i.modified >= old]
    progress.begin("extend", sum(info.size_bytes for info in asked))
    extender = _Extender(settings, enough, until, dry_run=dry_run, progress=progress, stop=stop)
    try:
        with ThreadPoolExecutor(_THREADS, thread_name_prefix="extend") as pool:
            outcomes = list(pool.map(extender.extend, asked))
    finally:
        extender.close()
    if stop.is_set():
        raise StoppedError("stopped; the next run extends what is left")
    extended = [info for info, outcome in zip(asked, outcomes, strict=True) if outcome == ""]
    problems += [outcome for outcome in outcomes if outcome]
    return ExtendReport(
        target=target,
        needed=len(needed),
        extended=len(extended),
        extended_bytes=sum(info.size_bytes for info in extended),
        until=until,
        dry_run=dry_run,
        problems=tuple(dict.fromkeys(problems)),
    )


def locked_settings(installation: Installation, target: str) -> S3Target:
    """The settings of a target that has an Object Lock. Raises `UsageError` for another."""
    settings = installation.settings.targets[target]
    if not isinstance(settings, S3Target) or not settings.object_lock_mode:
        raise UsageError(
            f"target {target!r} has no object_lock",
            hint="set `object_lock: {mode: COMPLIANCE, days: 30}` on a target of type s3",
        )
    return settings


def needed_objects(
    repository: Repository, problems: list[str], progress: Progress, stop: threading.Event
) -> Iterator[ObjectInfo]:
    """Every object without which a listed snapshot could not be restored.

    What is damaged or missing is said in `problems`, and the rest is given.
    """
    target = repository.target
    descriptor = target.stat(layout.DESCRIPTOR)
    if descriptor is not None:
        yield descriptor
    yield from target.list(layout.KEYS)
    yield from target.list(layout.INDEX)
    packs = {}
    for info in target.list(layout.PACKS):
        pack_id = layout.pack_id_of(info.name)
        if pack_id is not None:
            packs[pack_id] = info
    # After the packs: what a later snapshot stored is new enough.
    index = repository.load_index(problems.append)
    usage = Usage(index, (), absent=index.packs.keys() - packs.keys())
    reader = BlobReader(BlobFinder(repository, index, problems.append))
    listing = repository.list_snapshots()
    problems += listing.damaged.values()
    for snapshot in with_trees_ahead(reader, listing.snapshots):
        if stop.is_set():
            raise StoppedError("stopped; nothing was extended")
        try:
            usage.add_snapshot(reader, snapshot.record)
        except DamagedError as error:
            problems.append(f"{snapshot.record.model}@v{snapshot.record.version}: {error.message}")
        progress.advance(0, 1)
    listed = {(snapshot.name.folder, snapshot.name.version) for snapshot in listing.snapshots}
    for info in target.list(layout.SNAPSHOTS):
        name = parse_name(info.name)
        if name is not None and not name.forgotten and (name.folder, name.version) in listed:
            yield info
    if usage.missing:
        problems.append(f"{len(usage.missing)} blobs that snapshots need are missing; run check")
    for use in usage.packs():
        found = packs.get(use.pack_id)
        if use.used_count and found is not None:
            yield found
        elif use.used_count:
            problems.append(f"{layout.pack_name(use.pack_id)} is missing")


class _Extender:
    """Extends one object after another; several threads call it."""

    def __init__(
        self,
        settings: S3Target,
        enough: float,
        until: float,
        *,
        dry_run: bool,
        progress: Progress,
        stop: threading.Event,
    ) -> None:
        # Imported here, as boto3 behind it costs 180 ms.
        from backupd.targets.s3_versions import BucketVersions

        self._bucket = BucketVersions(settings)
        self._mode = settings.object_lock_mode
        self._enough = enough
        self._until = until
        self._dry_run = dry_run
        self._progress = progress
        self._stop = stop

    def close(self) -> None:
        """Close the connections."""
        self._bucket.close()

    def extend(self, info: ObjectInfo) -> str | None:
        """None where it is held long enough, "" where it is now, else why it could not be."""
        if self._stop.is_set():
            return None
        try:
            held = self._bucket.retained_until(info.name)
            if held >= self._enough:
                return None
            if not self._dry_run:
                self._bucket.retain(info.name, self._mode, self._until)
            return ""
        except ObjectMissingError:
            return f"{info.name} was deleted meanwhile"
        except TargetError as error:
            return error.message
        finally:
            self._progress.advance(info.size_bytes, 1)


def unheld(report: ExtendReport) -> DamagedError:
    """What is to be told where not everything is held."""
    more = len(report.problems) - _NAMED
    named = "; ".join(report.problems[:_NAMED]) + (f" and {more} more" if more > 0 else "")
    return DamagedError(
        f"not all that the snapshots on {report.target} need is held: {named}",
        hint="`backupd check` says what is damaged; what was deleted or written over is in the"
        " bucket's older versions: see `backupd undelete --help`",
    )
