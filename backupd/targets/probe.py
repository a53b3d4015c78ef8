"""Seeing what a target does before anything is trusted to it, by small objects of its own.

They are put under `probe/` and removed; nothing of the repository is read or written.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from backupd.config.settings import LocalTarget, NasTarget, S3Target, TargetSettings
from backupd.errors import TargetReadOnlyError
from backupd.targets.base import Target
from backupd.targets.capabilities import Capabilities, Creation, Lock, Ranges
from backupd.targets.probe_sweep import FOLDER, sweep

_WRITERS = 12
# Someone waits for the answer.
_PROBE_SECONDS = 15.0


def probe_target(
    settings: TargetSettings,
    *,
    clock: Callable[[], float],
    on_request: Callable[[str], None] | None = None,
) -> Capabilities:
    """What the target is seen to do. It must be there already (`open.prepare_target`).

    `clock` gives seconds since the epoch; `on_request` is as for `BucketTarget`. Raises the
    `TargetError` that says why nothing could be seen, where a request fails; what
    is merely wrong is in the answer.
    """
    match settings:
        case LocalTarget():
            from backupd.targets.local import FolderTarget

            return _closing(FolderTarget(settings.name, settings.path), _probe_folder, clock)
        case NasTarget():
            from backupd.targets.nas import MountTarget

            share = MountTarget(
                settings.name,
                settings.path,
                require_mount=settings.require_mount,
                hang_seconds=settings.hang_seconds,
            )
            return _closing(share, _probe_folder, clock)
        case S3Target():
            from backupd.targets.s3 import BucketTarget
            from backupd.targets.s3_probe import PART_BYTES, probe_bucket

            bucket = BucketTarget(
                replace(
                    settings,
                    read_timeout_seconds=min(settings.read_timeout_seconds, _PROBE_SECONDS),
                ),
                multipart_bytes=PART_BYTES,
                part_bytes=PART_BYTES,
                on_request=on_request,
            )
            try:
                return probe_bucket(bucket, clock)
            finally:
                bucket.close()


def place_of(settings: TargetSettings) -> str:
    """What a kept probe belongs to: it changes when the target is another one."""
    if isinstance(settings, S3Target):
        return f"s3://{settings.bucket}/{settings.prefix} at {settings.endpoint_url or 'Amazon'}"
    return str(settings.path)


def _closing(
    target: Target,
    probe: Callable[[Target, Callable[[], float]], Capabilities],
    clock: Callable[[], float],
) -> Capabilities:
    try:
        return probe(target, clock)
    finally:
        target.close()


def _probe_folder(target: Target, clock: Callable[[], float]) -> Capabilities:
    folder = f"{FOLDER}{os.urandom(8).hex()}/"
    data = os.urandom(100_000)
    name = f"{folder}bytes"
    try:
        target.put(name, [data[:333], data[333:]])
        asked = clock()
        whole = target.get(name, len(data)) == data
        part = bytearray(5000)
        target.read_into(name, 4321, memoryview(part))
        found = target.stat(name)
        won = _race(target, f"{folder}race")
        listing = [info.name for info in target.list(folder)] == [name, f"{folder}race"]
        deletes = _remove(target, [name, f"{folder}race"])
        listing = listing and (not deletes or not list(target.list(folder)))
    finally:
        sweep(target, folder)
    return Capabilities(
        creation=Creation.ATOMIC if won == 1 else Creation.RACY,
        ranges=Ranges.PARTIAL if part == data[4321:9321] else Ranges.WRONG,
        whole=whole and found is not None and found.size_bytes == len(data),
        checksums=True,
        listing=listing,
        deletes=deletes,
        versioning=False,
        object_lock=Lock.ABSENT,
        clock_ahead_seconds=found.modified - asked if found else 0.0,
        probed=clock(),
    )


def _race(target: Target, name: str) -> int:
    """How many of racing writers are told that they created the object."""
    barrier = threading.Barrier(_WRITERS)

    def create(number: int) -> bool:
        barrier.wait()
        return target.put_if_absent(name, [b"%d" % number])

    with ThreadPoolExecutor(_WRITERS, thread_name_prefix="race") as pool:
        return sum(pool.map(create, range(_WRITERS)))


def _remove(target: Target, names: list[str]) -> bool:
    try:
        for name in names:
            target.delete(name)
    except TargetReadOnlyError:
        return False
    return True
