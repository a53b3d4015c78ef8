"""The versions of the objects in a bucket that keeps them: listed, held longer, and removed.

Beside the `Target` of the same place, for what only such a bucket can do.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from backupd.targets.base import is_name
from backupd.targets.s3_calls import BucketCalls

# What DeleteObjects takes at once.
_BATCH = 1000


@dataclass(frozen=True, slots=True)
class Version:
    """One version of the object `name`, or with `marker` a mark that it was deleted then.

    `modified` is seconds since the epoch by the store's clock. `hidden` is when the next version
    came over it, 0 for the latest. `etag` is the store's own hash, empty for a marker.
    """

    name: str
    version_id: str
    modified: float
    size_bytes: int
    marker: bool
    hidden: float
    etag: str


class BucketVersions(BucketCalls):
    """The versions below a bucket target's prefix. Safe for several threads."""

    def versions(self, prefix: str = "") -> Iterator[list[Version]]:
        """All versions of one object after another, in name order, the newest first.

        Raises `TargetError`, also where these credentials may not list versions.
        """
        following: dict[str, Any] = {}
        rows: list[Version] = []
        while True:
            page: Any = self.run(
                prefix,
                lambda client: client.list_object_versions(
                    Bucket=self.bucket,
                    Prefix=self.key(prefix),
                    **following,  # noqa: B023 - called before it changes
                ),
                writing=False,
            )
            for key, row in _rows(page):
                name = key[len(self.prefix) :]
                if not is_name(name):
                    continue
                hidden = rows[-1].modified if rows and rows[-1].name == name else 0.0
                if rows and rows[-1].name != name:
                    yield rows
                    rows = []
                marker = "Size" not in row
                modified = row["LastModified"].timestamp()
                version = str(row["VersionId"])
                size, etag = row.get("Size", 0), row.get("ETag", "").strip('"')
                rows.append(Version(name, version, modified, size, marker, hidden, etag))
            if not page.get("IsTruncated"):
                break
            following = {"KeyMarker": page["NextKeyMarker"]}
            if page.get("NextVersionIdMarker"):
                following["VersionIdMarker"] = page["NextVersionIdMarker"]
        if rows:
            yield rows

    def retained_until(self, name: str) -> float:
        """The end of the latest version's retention in seconds since the epoch, 0 for none.

        Raises `ObjectMissingError`.
        """
        found = self.run(
            name,
            lambda client: client.head_object(Bucket=self.bucket, Key=self.key(name)),
            writing=False,
        )
        until = found.get("ObjectLockRetainUntilDate")
        return until.timestamp() if until is not None else 0.0

    def retain(self, name: str, mode: str, until: float) -> None:
        """Hold the latest version until `until`, in the mode GOVERNANCE or COMPLIANCE."""
        held: Any = {"Mode": mode, "RetainUntilDate": datetime.fromtimestamp(int(until), UTC)}
        self.run(
            name,
            lambda client: client.put_object_retention(
                Bucket=self.bucket, Key=self.key(name), Retention=held
            ),
            writing=True,
        )

    def remove(self, versions: Iterable[Version]) -> set[tuple[str, str]]:
        """Delete versions for good; those (name, version id) that the store refuses to.

        It refuses what is still held, and everything where these credentials may not.
        """
        refused = set()
        waiting = list(versions)
        for at in range(0, len(waiting), _BATCH):
            batch = waiting[at : at + _BATCH]
            names = {self.key(version.name): version.name for version in batch}
            request: Any = {
                "Quiet": True,
                "Objects": [{"Key": self.key(v.name), "VersionId": v.version_id} for v in batch],
            }
            answer = self.run(
                "",
                lambda client: client.delete_objects(Bucket=self.bucket, Delete=request),  # noqa: B023
                writing=True,
            )
            for error in answer.get("Errors", []):
                name = names.get(error.get("Key", ""), "")
                refused.add((name, str(error.get("VersionId", ""))))
        return refused

    def bring_back(self, version: Version, options: dict[str, Any]) -> None:
        """Put a copy of an older version on top, with the `options` of a put."""
        self.run(
            version.name,
            lambda client: client.copy_object(
                Bucket=self.bucket,
                Key=self.key(version.name),
                CopySource={
                    "Bucket": self.bucket,
                    "Key": self.key(version.name),
                    "VersionId": version.version_id,
                },
                **options,
            ),
            writing=True,
        )

    def hide(self, name: str) -> None:
        """Mark the object deleted; its versions stay."""
        self.run(
            name,
            lambda client: client.delete_object(Bucket=self.bucket, Key=self.key(name)),
            writing=True,
        )


def version_at(rows: Sequence[Version], as_of: float) -> Version | None:
    """Of one object's versions, newest first, what it was at the time `as_of`."""
    for row in rows:
        if row.modified <= as_of:
            return None if row.marker else row
    return None


def is_written_over(rows: Sequence[Version]) -> bool:
    """Whether other bytes than before stand under the name of an object, newest version first.

    What backupd stores is never changed, so somebody else did that. The hash of an upload in
    parts depends on the parts, and is not compared.
    """
    latest, *older = [row for row in rows if not row.marker] or [rows[0]]
    return not rows[0].marker and any(
        row.size_bytes != latest.size_bytes
        or (row.etag != latest.etag and "-" not in row.etag + latest.etag)
        for row in older
    )


def _rows(page: Any) -> list[tuple[str, Any]]:
    """A page's versions and delete markers, which come apart, in one row: by key, newest first.

    Where two of one key bear the same time, and neither is the latest, the version goes first.
    """
    rows = [*page.get("Versions", []), *page.get("DeleteMarkers", [])]
    rows.sort(key=lambda row: (not row["IsLatest"], -row["LastModified"].timestamp()))
    rows.sort(key=lambda row: row["Key"])
    return [(row["Key"], row) for row in rows]
