"""Objects in an archive class: whether one can be read now, and asking that it be thawed."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from backupd.errors import ObjectMissingError, TargetError
from backupd.targets.s3_classes import is_cold
from backupd.targets.s3_errors import error_code
from backupd.targets.s3_versions import BucketVersions, version_at

_ASKED_BEFORE = "RestoreAlreadyInProgress"
_TIERING = "INTELLIGENT_TIERING"
_NO_CAPACITY = "GlacierExpeditedRetrievalNotAvailable"


class Warmth(StrEnum):
    """`READY` can be read, `COLD` must be asked for, `THAWING` was asked for."""

    READY = "ready"
    COLD = "cold"
    THAWING = "thawing"


@dataclass(frozen=True, slots=True)
class ObjectState:
    """How an object stands; `storage_class` is empty for the store's ordinary one."""

    name: str
    size_bytes: int
    storage_class: str
    warmth: Warmth


class ColdBucket(BucketVersions):
    """What can be asked of a bucket that has archive classes. Safe for several threads."""

    def state(self, name: str) -> ObjectState:
        """How the object stands. Raises `TargetError`, `ObjectMissingError` where it is absent."""
        place = self._place(name)
        found: Any = self.run(name, lambda client: client.head_object(**place), writing=False)
        warmth = Warmth.COLD if is_cold(found) else Warmth.READY
        if warmth is Warmth.COLD and 'ongoing-request="true"' in str(found.get("Restore", "")):
            warmth = Warmth.THAWING
        return ObjectState(name, found["ContentLength"], found.get("StorageClass", ""), warmth)

    def thaw(self, cold: ObjectState, *, tier: str, days: int) -> None:
        """Ask that the object can be read for `days` once it is thawed; asking again is no error.

        Raises `TargetError`, also where the store does not thaw, or not in that tier.
        """
        name = cold.name
        place = self._place(name)
        request: Any = {"Days": days, "GlacierJobParameters": {"Tier": tier.capitalize()}}
        if cold.storage_class == _TIERING:
            # It comes back for good, and Amazon refuses a number of days (RestoreObject).
            del request["Days"]

        def ask(client: Any) -> None:
            try:
                client.restore_object(**place, RestoreRequest=request)
            except Exception as error:
                code = error_code(error)[0]
                if code == _ASKED_BEFORE:
                    return
                if code == _NO_CAPACITY:
                    raise TargetError(
                        f"target {self.settings.name!r}: the store has no room to thaw anything"
                        f" {tier} now",
                        hint="ask for another tier: --thaw standard",
                    ) from None
                raise

        self.run(name, ask, writing=True)

    def _place(self, name: str) -> dict[str, Any]:
        """What names the object in a request, at the time that the settings look at it."""
        place = {"Bucket": self.bucket, "Key": self.key(name)}
        if self.settings.as_of:
            rows = next((rows for rows in self.versions(name) if rows[0].name == name), [])
            version = version_at(rows, self.settings.as_of)
            if version is None:
                target = self.settings.name
                raise ObjectMissingError(f"target {target!r}: {name} was not there then")
            place["VersionId"] = version.version_id
        return place
