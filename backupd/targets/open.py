"""Making targets: from the settings of a configuration, and from a location on a command line."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

from backupd.config.quantities import parse_time
from backupd.config.settings import LocalTarget, NasTarget, S3Target, TargetSettings
from backupd.errors import UsageError
from backupd.targets.bandwidth import LimitedTarget, TokenBucket
from backupd.targets.base import Target
from backupd.targets.counting import CountingTarget, Traffic
from backupd.targets.local import FolderTarget, create_folder
from backupd.targets.nas import MountTarget, create_mounted_folder
from backupd.targets.retry import Patience, RetryTarget

# For stale handles, which are right again when opened anew. An absent mount is said at once.
_ONCE_MORE = Patience(attempts=2, first_seconds=0.0)
# What stays for as long as packs do; claims and tombstones are gone before a class pays.
_METADATA = ("index/", "snapshots/", "keys/")
_OPTIONS = (
    "endpoint_url",
    "region",
    "profile",
    "path_style",
    "ca_bundle",
    "credentials_file",
    "proxy",
    "sse_customer_key_file",
    "as_of",
)


def open_target(
    settings: TargetSettings,
    *,
    upload: TokenBucket | None = None,
    own_upload: TokenBucket | None = None,
    traffic: Traffic | None = None,
    stop: threading.Event | None = None,
    clock: Callable[[], float] = time.time,
) -> Target:
    """The target that `settings` describe, with the wrappers its kind needs. Nothing is asked of
    it yet.

    `upload` limits what goes out to all targets but disks, `own_upload` what goes to this one.
    `traffic` counts every request that is really
    made, tries that failed included. `stop` ends waiting for a store that does not answer and
    for other writers. By `clock` (seconds since the epoch) the end of an Object Lock is reckoned.
    """
    target: Target
    match settings:
        case LocalTarget():
            target = FolderTarget(settings.name, settings.path)
        case NasTarget():
            target = MountTarget(
                settings.name,
                settings.path,
                require_mount=settings.require_mount,
                read_back_whole=settings.read_back_whole,
                hang_seconds=settings.hang_seconds,
            )
        case S3Target(as_of=as_of) if as_of:
            from backupd.targets.s3_past import PastBucketTarget

            target = PastBucketTarget(settings)
        case S3Target():
            # Imported here, as are its threads and parsers, so that a local target costs none.
            from backupd.targets.s3 import BucketTarget
            from backupd.targets.s3_lock import ObjectLock

            lock = (
                ObjectLock(settings.object_lock_mode, settings.object_lock_days, clock)
                if settings.object_lock_mode
                else None
            )
            classes = dict.fromkeys(_METADATA, settings.metadata_storage_class)
            classes["packs/"] = settings.storage_class
            target = BucketTarget(
                settings,
                storage_classes=classes,
                lock=lock,
                on_request=traffic.add if traffic is not None else None,
                stop=stop,
            )
    if traffic is not None:
        # A bucket's operation may take many requests, and each is what a store counts.
        itself = isinstance(settings, S3Target) and not settings.as_of
        target = CountingTarget(target, traffic, requests=not itself)
    for limit in (upload, own_upload):
        if limit is not None and not isinstance(settings, LocalTarget):
            target = LimitedTarget(target, limit)
    match settings:
        case S3Target():
            target = RetryTarget(target, stop=stop)
        case NasTarget():
            target = RetryTarget(target, patience=_ONCE_MORE, stop=stop)
        case LocalTarget():
            pass  # a folder that is not there now will not be at the next try
    return target


def prepare_target(settings: TargetSettings) -> None:
    """Create the folder of a target where it is absent; see that its bucket is there.

    A bucket is not created: where it lies and who may do what in it is its owner's choice.
    Raises a `TargetError` where the target cannot be used.
    """
    match settings:
        case LocalTarget():
            create_folder(settings.name, settings.path)
        case NasTarget():
            create_mounted_folder(
                settings.name, settings.path, require_mount=settings.require_mount
            )
        case S3Target():
            from backupd.targets.s3 import BucketTarget

            target = BucketTarget(settings)
            try:
                target.check_bucket()
            finally:
                target.close()


def parse_location(location: str) -> TargetSettings:
    """The settings for `--repository`: a path, or `s3://BUCKET/PREFIX?endpoint_url=...&...`.

    What may follow the question mark are the keys of an S3 target in the configuration; what is
    not said comes from boto3's own chain (`AWS_ENDPOINT_URL`, `AWS_PROFILE`, ...). The target is
    named after its kind. Raises `UsageError`.
    """
    if not location.strip():
        raise UsageError("no repository is named", hint="give a path or s3://BUCKET/PREFIX")
    scheme, separator, _ = location.partition("://")
    if not separator:
        return LocalTarget("local", Path(location).expanduser().absolute())
    if scheme.lower() != "s3":
        raise UsageError(
            f"{location!r} is no repository: {scheme}:// is not known",
            hint="give a path or s3://BUCKET/PREFIX",
        )
    parts = urlsplit(location)
    if not parts.netloc or "@" in parts.netloc:
        raise UsageError(
            "a repository in S3 is named s3://BUCKET/PREFIX, without credentials",
            hint="credentials come from AWS_ACCESS_KEY_ID and its secret, or from a profile",
        )
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    unknown = [key for key in options if key not in _OPTIONS]
    if unknown:
        raise UsageError(
            f"{unknown[0]!r} is no option of an S3 repository",
            hint=f"there are {', '.join(_OPTIONS)}",
        )
    return S3Target(
        "s3",
        bucket=parts.netloc,
        prefix=parts.path.strip("/"),
        endpoint_url=options.get("endpoint_url", ""),
        region=options.get("region", ""),
        profile=options.get("profile", ""),
        path_style=options.get("path_style", "false").lower() in ("1", "true", "yes"),
        ca_bundle=_path(options.get("ca_bundle", "")),
        credentials_file=_path(options.get("credentials_file", "")),
        proxy=options.get("proxy", ""),
        sse="customer" if options.get("sse_customer_key_file") else "",
        sse_customer_key_file=_path(options.get("sse_customer_key_file", "")),
        as_of=_time(options.get("as_of", "")),
    )


def _time(text: str) -> float:
    if not text:
        return 0.0
    try:
        return parse_time(text)
    except ValueError as error:
        problem, _, mend = str(error).partition("; ")
        raise UsageError(f"as_of: {text!r} {problem}", hint=mend) from None


def _path(text: str) -> Path | None:
    return Path(text).expanduser().absolute() if text else None
