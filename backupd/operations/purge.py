"""Removing the old versions of what was deleted, from a bucket that keeps versions.

A delete in such a bucket only hides an object. Its space comes back when the version goes, which
is done when it has been hidden for as long as the Object Lock lasts: so long what a thief deleted
can be had back, whatever of it was still held.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from backupd.config.settings import S3Target
from backupd.errors import StoppedError
from backupd.operations.installation import Installation
from backupd.targets.s3_lock import is_kept

if TYPE_CHECKING:
    from backupd.targets.s3_versions import BucketVersions, Version

_DAY_SECONDS = 86_400.0
_BATCH = 1000
_NAMED = 5


@dataclass(frozen=True, slots=True)
class PurgeReport:
    """What became of hidden versions: `removed`, `waiting` for their time, `refused`.

    `next_time` is when the first of those that wait may go (seconds since the epoch, 0 for none).
    `written_over` names objects that somebody put other bytes over: their versions all stay.
    """

    removed: int = 0
    removed_bytes: int = 0
    waiting: int = 0
    waiting_bytes: int = 0
    next_time: float = 0.0
    refused: int = 0
    written_over: tuple[str, ...] = ()


def purge_hidden(
    installation: Installation, target: str, *, dry_run: bool, stop: threading.Event
) -> PurgeReport:
    """As `purge`, for a target that has an Object Lock; of another there is nothing to remove."""
    settings = installation.settings.targets[target]
    if not isinstance(settings, S3Target) or not settings.object_lock_mode:
        return PurgeReport()
    return purge(settings, now=installation.clock(), dry_run=dry_run, stop=stop)


def notes_of(report: PurgeReport) -> list[str]:
    """What a person is to know of it, a sentence each."""
    found = []
    if report.waiting:
        first = datetime.fromtimestamp(report.next_time, UTC).date().isoformat()
        found.append(
            f"{report.waiting} deleted objects ({report.waiting_bytes} bytes) wait for their"
            f" Object Lock to end; the first may go on {first}"
        )
    if report.refused:
        found.append(
            f"the store refuses to remove {report.refused} old versions, as it holds them still or"
            " these credentials may not (s3:DeleteObjectVersion); a lifecycle rule of the bucket"
            " does it as well"
        )
    if report.written_over:
        named = ", ".join(report.written_over[:_NAMED])
        more = len(report.written_over) - _NAMED
        found.append(
            f"somebody wrote other bytes over {named}{f' and {more} more' if more > 0 else ''};"
            " the old ones are kept: see `backupd undelete --help`"
        )
    return found


def purge(
    settings: S3Target, *, now: float, dry_run: bool = False, stop: threading.Event
) -> PurgeReport:
    """Remove what has been hidden for `object_lock_days`. What the store still holds it refuses
    to remove, which is counted and tried again by the next run.

    Raises `TargetError` and `StoppedError`.
    """
    from backupd.targets.s3_versions import BucketVersions

    bucket = BucketVersions(settings)
    try:
        return _purge(bucket, now, settings.object_lock_days * _DAY_SECONDS, dry_run, stop)
    finally:
        bucket.close()


def hidden_versions(rows: Sequence[Version]) -> Iterator[tuple[Version, float]]:
    """Of one object's versions, newest first, those that are hidden, and since when."""
    deleted = rows[0].marker
    for row in rows:
        if row.hidden:
            yield row, row.hidden
        elif deleted and len(rows) == 1:
            # A mark with nothing below it hides nothing, and is itself what is left over.
            yield row, row.modified


def _purge(
    bucket: BucketVersions, now: float, keep_seconds: float, dry_run: bool, stop: threading.Event
) -> PurgeReport:
    from backupd.targets.s3_versions import is_written_over

    removed = removed_bytes = waiting = waiting_bytes = refused = 0
    next_time = 0.0
    due: list[Version] = []
    written_over: list[str] = []

    def remove() -> None:
        nonlocal removed, removed_bytes, refused
        denied = set() if dry_run else bucket.remove(due)
        for version in due:
            if (version.name, version.version_id) in denied:
                refused += 1
            else:
                removed += 1
                removed_bytes += version.size_bytes
        due.clear()

    for rows in bucket.versions():
        if stop.is_set():
            raise StoppedError("stopped; the next prune goes on")
        if is_kept(rows[0].name) and is_written_over(rows):
            written_over.append(rows[0].name)
            continue
        for version, since in hidden_versions(rows):
            if since + keep_seconds <= now:
                due.append(version)
            elif not version.marker:
                waiting += 1
                waiting_bytes += version.size_bytes
                next_time = min(next_time or since + keep_seconds, since + keep_seconds)
        if len(due) >= _BATCH:
            remove()
    if due:
        remove()
    return PurgeReport(
        removed, removed_bytes, waiting, waiting_bytes, next_time, refused, tuple(written_over)
    )
