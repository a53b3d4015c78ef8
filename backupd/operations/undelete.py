"""Making a bucket that keeps versions what it was at a time that has passed.

For after somebody deleted, wrote over or forgot what was there. No data is removed: each step takes
away a mark, or puts a copy of the old version on top. A run that was stopped is finished by the
next.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from backupd.config.settings import S3Target
from backupd.errors import ColdError, StoppedError, TargetError, UsageError
from backupd.operations.installation import Installation
from backupd.operations.progress import NoProgress, Progress
from backupd.repository import layout
from backupd.repository.snapshots import parse_name
from backupd.targets.s3_lock import ObjectLock

if TYPE_CHECKING:
    from backupd.targets.s3_versions import BucketVersions, Version


class Step(StrEnum):
    """What is done to one object: its old version comes on top, or what came later is hidden."""

    BRING_BACK = "bring back"
    HIDE = "hide"


@dataclass(frozen=True, slots=True)
class UndeleteReport:
    """What undelete did, or with dry run would do; `failed` says which objects could not be."""

    target: str
    brought_back: tuple[str, ...]
    hidden: tuple[str, ...]
    size_bytes: int
    dry_run: bool
    failed: tuple[str, ...] = ()


def undelete(
    installation: Installation,
    target: str,
    *,
    as_of: float,
    dry_run: bool = False,
    progress: Progress | None = None,
    stop: threading.Event | None = None,
) -> UndeleteReport:
    """Bring back what was there at `as_of` (seconds since the epoch) and is not there now.

    What was stored later stays, but for the marks of forgotten snapshots that were listed then,
    and tombstones. Raises `UsageError` where the target is no bucket, `TargetError` where its
    versions cannot be listed, and `StoppedError`.
    """
    from backupd.targets.s3_versions import BucketVersions

    progress = progress or NoProgress()
    stop = stop or threading.Event()
    settings = installation.settings.targets[target]
    if not isinstance(settings, S3Target):
        raise UsageError(
            f"target {target!r} keeps no versions", hint="only a target of type s3 can"
        )
    done: dict[Step, list[str]] = {Step.BRING_BACK: [], Step.HIDE: []}
    failed: list[str] = []
    size = 0
    progress.begin("undelete")
    bucket = BucketVersions(settings)
    try:
        for rows in bucket.versions():
            if stop.is_set():
                raise StoppedError("stopped; the next run brings back what is left")
            step, version = decide(rows, as_of)
            if step is None:
                continue
            try:
                if not dry_run and step is Step.BRING_BACK:
                    if not _unmark(bucket, rows, version):
                        bucket.bring_back(version, _options(installation, settings, version.name))
                elif not dry_run:
                    bucket.hide(version.name)
            except ColdError:
                failed.append(f"{version.name}: its old version is in an archive class")
                continue
            except TargetError as error:
                failed.append(f"{version.name}: {error.message}")
                continue
            done[step].append(version.name)
            size += version.size_bytes
            progress.advance(version.size_bytes, 1)
    finally:
        bucket.close()
    installation.drop(target)
    return UndeleteReport(
        target,
        tuple(done[Step.BRING_BACK]),
        tuple(done[Step.HIDE]),
        size,
        dry_run,
        tuple(failed),
    )


def _unmark(bucket: BucketVersions, rows: Sequence[Version], version: Version) -> bool:
    """Take away marks that lie over a version, where nothing else does: so it need not be copied,
    which one in an archive class could not be. False where that is not it, or is refused."""
    over = rows[: rows.index(version)]
    return all(row.marker for row in over) and not bucket.remove(over)


def decide(rows: Sequence[Version], as_of: float) -> tuple[Step | None, Version]:
    """What is to be done to an object, given all its versions, newest first."""
    from backupd.targets.s3_versions import version_at

    latest = rows[0]
    then = version_at(rows, as_of)
    if then is None:
        return (Step.HIDE if not latest.marker and _is_mark(latest.name) else None), latest
    if latest.marker:
        return Step.BRING_BACK, then
    same = (latest.size_bytes, latest.etag) == (then.size_bytes, then.etag)
    return (None if same else Step.BRING_BACK), then


def _is_mark(name: str) -> bool:
    """Whether the object's being there takes something away."""
    snapshot = parse_name(name)
    return name.startswith(layout.TOMBSTONES) or (snapshot is not None and snapshot.forgotten)


def _options(installation: Installation, settings: S3Target, name: str) -> dict[str, Any]:
    if not settings.object_lock_mode:
        return {}
    lock = ObjectLock(settings.object_lock_mode, settings.object_lock_days, installation.clock)
    return lock.upload_options(name)
