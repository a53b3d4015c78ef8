"""Seeing that a bucket holds what it is told to hold, before anybody relies on it.

Some servers take the headers of Object Lock and forget them (OpenStack Swift's does).
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from backupd.config.settings import S3Target
from backupd.errors import TargetError
from backupd.targets.s3_calls import BucketCalls
from backupd.targets.s3_errors import error_code
from backupd.targets.s3_lock import md5_option

# No listing shows it, as no object's name begins with a dot.
_NAME = ".probe/object-lock"
_SECONDS = 60.0


def refuse_without_lock(settings: S3Target, *, now: float) -> None:
    """Put a small object, held for a minute from `now` (seconds since the epoch), and try to delete
    it. Raises the `TargetError` that says why an Object Lock cannot be relied on there."""
    calls = BucketCalls(settings)
    try:
        problem = calls.run(_NAME, lambda client: _problem(client, calls, now), writing=True)
    finally:
        calls.close()
    if problem:
        raise TargetError(
            f"target {settings.name!r}: `object_lock` is set, and bucket {settings.bucket!r}"
            f" {problem}",
            hint="make the bucket with Object Lock, on a store that has it, or take `object_lock`"
            " out",
        )


def _problem(client: Any, calls: BucketCalls, now: float) -> str:
    body = b"Here backupd saw whether this bucket holds what it is told to.\n"
    place = {"Bucket": calls.bucket, "Key": calls.key(_NAME)}
    try:
        answer = client.put_object(
            **place,
            Body=body,
            ObjectLockMode=calls.settings.object_lock_mode,
            ObjectLockRetainUntilDate=datetime.fromtimestamp(int(now + _SECONDS), UTC),
            **md5_option([body]),
        )
    except Exception as error:
        if error_code(error)[1] in (400, 501):
            return "has no Object Lock"
        raise
    version = answer.get("VersionId")
    if not version or not client.head_object(**place).get("ObjectLockRetainUntilDate"):
        return "takes what is to be held and does not hold it"
    try:
        client.delete_object(**place, VersionId=version)
    except Exception as error:
        if error_code(error)[1] in (400, 403):
            return ""
        raise
    return "lets what it holds be deleted all the same"
