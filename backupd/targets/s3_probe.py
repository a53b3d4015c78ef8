"""Seeing what the server of a bucket does: ranges, checksums, listings, versions, locks, its clock.

All by requests of its own; what racing writers make of conditions is `s3_conditions`'s.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from hashlib import md5
from typing import TYPE_CHECKING, TypeVar

from backupd.errors import TargetError, TargetReadOnlyError, TargetUnreachableError
from backupd.targets.base import Target
from backupd.targets.capabilities import Capabilities, Lock, Ranges
from backupd.targets.probe_sweep import FOLDER, sweep
from backupd.targets.s3_errors import error_code

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

    from backupd.targets.s3 import BucketTarget

_Result = TypeVar("_Result")

# The least that Amazon allows of any but the last part of an upload.
PART_BYTES = 5 << 20
_SMALL = 1000


def probe_bucket(target: BucketTarget, clock: Callable[[], float]) -> Capabilities:
    """What the bucket's server is seen to do with `target`, which sends parts of `PART_BYTES`.

    `clock` gives seconds since the epoch. Raises `TargetError` where a request fails.
    """
    folder = f"{FOLDER}{os.urandom(8).hex()}/"
    small, large = f"{folder}small", f"{folder}in-parts"
    try:
        return _look(target, clock, small, large)
    except TargetUnreachableError:
        raise  # what is left there is swept by a later probe
    except TargetError:
        _removes(target, [small, large])
        raise


def _look(target: BucketTarget, clock: Callable[[], float], small: str, large: str) -> Capabilities:
    folder = f"{small.rpartition('/')[0]}/"
    data = os.urandom(_SMALL)
    target.put(small, [data])
    whole = target.get(small, _SMALL) == data
    ranges = target.ask(
        lambda client, bucket, prefix: _ranges(client, bucket, prefix + small, data)
    )
    whole = _parts_come_back(target, large) and whole
    listing = [info.name for info in target.list(folder)] == [large, small]
    checksums = target.ask(
        lambda client, bucket, prefix: _refuses_wrong_bytes(client, bucket, prefix + small)
    )
    ahead = target.ask(
        lambda client, bucket, prefix: _clock_ahead(client, bucket, prefix + small, clock)
    )
    deletes = _removes(target, [small, large])
    listing = listing and (not deletes or not list(target.list(folder)))
    sweep(target, folder)
    return Capabilities(
        creation=target.creation(anew=True),
        ranges=ranges,
        whole=whole,
        checksums=checksums,
        listing=listing,
        deletes=deletes,
        versioning=target.ask(lambda client, bucket, _: _keeps_versions(client, bucket)),
        object_lock=target.ask(lambda client, bucket, _: _lock(client, bucket)),
        clock_ahead_seconds=ahead,
        probed=clock(),
    )


def _ranges(client: S3Client, bucket: str, key: str, data: bytes) -> Ranges:
    answer = client.get_object(Bucket=bucket, Key=key, Range="bytes=100-349")
    with answer["Body"] as body:
        got = body.read(len(data) + 1)
    if got == data:
        return Ranges.WHOLE
    if got != data[100:350]:
        return Ranges.WRONG
    marked = answer["ResponseMetadata"]["HTTPStatusCode"] == 206
    # Without the header it could not be told from the whole object.
    if not answer.get("ContentRange", "").startswith("bytes 100-349"):
        return Ranges.WRONG
    return Ranges.PARTIAL if marked else Ranges.UNMARKED


def _parts_come_back(target: Target, name: str) -> bool:
    """Whether an object that went up in parts is what it was, whole and across their border."""
    data = os.urandom(PART_BYTES + _SMALL)
    target.put(name, [data])
    across = bytearray(2 * _SMALL - 10)
    target.read_into(name, PART_BYTES - _SMALL, memoryview(across))
    return across == data[PART_BYTES - _SMALL : -10] and target.get(name, len(data)) == data


def _refuses_wrong_bytes(client: S3Client, bucket: str, key: str) -> bool:
    other = base64.b64encode(md5(b"other bytes", usedforsecurity=False).digest()).decode()
    try:
        client.put_object(Bucket=bucket, Key=key, Body=b"bytes", ContentMD5=other)
    except Exception as error:
        if error_code(error)[1] == 400:
            return True
        raise
    return False


def _clock_ahead(client: S3Client, bucket: str, key: str, clock: Callable[[], float]) -> float:
    before = clock()
    answer = client.head_object(Bucket=bucket, Key=key)
    middle = (before + clock()) / 2
    said = answer["ResponseMetadata"]["HTTPHeaders"].get("date", "")
    try:
        theirs = parsedate_to_datetime(said).timestamp()
    except ValueError:
        return 0.0
    # The header has whole seconds, cut off.
    ahead = theirs + 0.5 - middle
    return 0.0 if abs(ahead) < 1.0 else ahead


def _keeps_versions(client: S3Client, bucket: str) -> bool:
    try:
        return client.get_bucket_versioning(Bucket=bucket).get("Status") == "Enabled"
    except Exception as error:
        return _unknown(error, False)


def _lock(client: S3Client, bucket: str) -> Lock:
    try:
        answer = client.get_object_lock_configuration(Bucket=bucket)["ObjectLockConfiguration"]
    except Exception as error:
        return _unknown(error, Lock.ABSENT)
    if answer.get("ObjectLockEnabled") != "Enabled":
        return Lock.ABSENT
    mode = answer.get("Rule", {}).get("DefaultRetention", {}).get("Mode", "")
    return Lock(mode.lower()) if mode.lower() in set(Lock) else Lock.ENABLED


def _unknown(error: Exception, otherwise: _Result) -> _Result:
    """`otherwise` where the server does not know the question or these credentials may not ask;
    else raises `error`."""
    status = error_code(error)[1]
    if (status and status < 500) or status == 501:
        return otherwise
    raise error


def _removes(target: Target, names: list[str]) -> bool:
    try:
        for name in names:
            target.delete(name)
    except TargetReadOnlyError:
        return False
    return True
