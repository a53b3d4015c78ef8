"""Object Lock at the time of a put: what a store is asked to keep from being deleted, and how long.

Extending it later is `operations.extend`'s, through `s3_versions`.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from backupd.targets.base import Buffer
from backupd.targets.parts import PartsReader

DAY_SECONDS = 86_400.0
# What a restore needs. Claims, tombstones and probes come and go, and are nobody's loss.
_KEPT = ("repository.json", "keys/", "packs/", "index/", "snapshots/")
_FORGOTTEN = "-forgotten"
_STEP_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class ObjectLock:
    """`mode` is GOVERNANCE or COMPLIANCE; `clock` gives seconds since the epoch."""

    mode: str
    days: int
    clock: Callable[[], float]

    def put_options(self, name: str, parts: Sequence[Buffer]) -> dict[str, Any]:
        """What a put of `parts` under `name` is to say; nothing where it is not kept."""
        return {**self.upload_options(name), **md5_option(parts)} if is_kept(name) else {}

    def upload_options(self, name: str) -> dict[str, Any]:
        """As `put_options`, for an upload in parts, each of which has an MD5 of its own."""
        if not is_kept(name):
            return {}
        return {"ObjectLockMode": self.mode, "ObjectLockRetainUntilDate": self.until()}

    def until(self) -> datetime:
        """The end of a retention that begins now, in whole seconds, as stores keep it."""
        end = self.clock() + self.days * DAY_SECONDS
        return datetime.fromtimestamp(int(end), UTC)


def is_kept(name: str) -> bool:
    """Whether the object is one that Object Lock is to hold."""
    return name.startswith(_KEPT) and not name.endswith(_FORGOTTEN)


def md5_option(parts: Sequence[Buffer], start: int = 0, stop: int | None = None) -> dict[str, str]:
    """The Content-MD5 of the bytes `start` to `stop` of `parts`.

    S3 refuses a put with a retention that has no checksum (PutObject, UploadPart), and this is
    the one that every server knows.
    """
    digest = hashlib.md5(usedforsecurity=False)
    reader = PartsReader(parts, start, stop)
    while step := reader.read(_STEP_BYTES):
        digest.update(step)
    return {"ContentMD5": base64.b64encode(digest.digest()).decode()}
