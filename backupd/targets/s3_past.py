"""A bucket that keeps versions, looked at as it was at a time that has passed, and never written.

What was deleted or written over since then, by a mistake or by someone who got hold of the box's
credentials, is there in such a view as long as the bucket keeps the old version.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from backupd.config.settings import S3Target
from backupd.errors import ObjectMissingError, TargetReadOnlyError
from backupd.targets.base import Buffer, ObjectInfo, check_prefix
from backupd.targets.s3 import BucketTarget
from backupd.targets.s3_versions import BucketVersions, Version, version_at

# Beyond so many a version is asked for when it is needed, which is one request each.
_REMEMBERED = 100_000


class PastBucketTarget(BucketTarget):
    """A `Target` that is the bucket of `settings` at their `as_of`."""

    def __init__(self, settings: S3Target) -> None:
        super().__init__(settings)
        self._as_of = settings.as_of
        self._versions = BucketVersions(settings)
        self._known: dict[str, Version | None] = {}

    @property
    def location(self) -> str:
        """The bucket and prefix, and the time."""
        when = datetime.fromtimestamp(self._as_of, UTC).isoformat(timespec="seconds")
        return f"{super().location} as of {when}"

    def put(self, name: str, parts: Sequence[Buffer], *, warm: bool = False) -> None:
        """Raises `TargetReadOnlyError`."""
        raise self._refusal()

    def put_if_absent(self, name: str, parts: Sequence[Buffer]) -> bool:
        """Raises `TargetReadOnlyError`."""
        raise self._refusal()

    def delete(self, name: str) -> None:
        """Raises `TargetReadOnlyError`."""
        raise self._refusal()

    def delete_many(self, names: Sequence[str]) -> None:
        """Refused."""
        raise self._refusal()

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """See `Target.list`."""
        check_prefix(prefix)
        for rows in self._versions.versions(prefix):
            version = version_at(rows, self._as_of)
            if len(self._known) < _REMEMBERED:
                self._known[rows[0].name] = version
            if version is not None:
                yield ObjectInfo(version.name, version.size_bytes, version.modified)

    def close(self) -> None:
        """See `Target.close`."""
        super().close()
        self._versions.close()

    def _which(self, name: str) -> dict[str, Any]:
        if name not in self._known:
            # With its neighbours, as who asks for one of a folder asks for others.
            folder = name[: name.rfind("/") + 1]
            for _ in self.list(folder) if folder else ():
                continue
        if name not in self._known:
            rows = next((r for r in self._versions.versions(name) if r[0].name == name), [])
            self._known[name] = version_at(rows, self._as_of)
        version = self._known[name]
        if version is None:
            raise ObjectMissingError(f"target {self.name!r}: {name} was not there then")
        return {"VersionId": version.version_id}

    def _refusal(self) -> TargetReadOnlyError:
        return TargetReadOnlyError(
            f"target {self.name!r} is looked at as it was at an earlier time, and is only read",
            hint="take `as_of` out of its settings to write to it",
        )
