"""Requests to a bucket beside its `Target`, for what other kinds of target have not.

They are tried again by boto3's own standard mode.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from backupd.config.settings import S3Target
from backupd.errors import ObjectMissingError
from backupd.targets.s3_errors import error_code, is_from_store, translate

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

_Result = TypeVar("_Result")

CONNECTIONS = 16
_ATTEMPTS = 6


class BucketCalls:
    """A bucket target's client, keys and errors in words. Safe for several threads."""

    def __init__(self, settings: S3Target) -> None:
        # Imported here for its 180 ms.
        from backupd.targets.s3_client import make_client

        self.settings = settings
        self.bucket = settings.bucket
        prefix = settings.prefix.strip("/")
        self.prefix = f"{prefix}/" if prefix else ""
        self._client = make_client(settings, connections=CONNECTIONS, attempts=_ATTEMPTS)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def key(self, name: str) -> str:
        """The key of an object."""
        return self.prefix + name

    def run(self, name: str, action: Callable[[S3Client], _Result], *, writing: bool) -> _Result:
        """Do `action` with the client; what boto3 raises becomes a `TargetError`."""
        address = f"s3://{self.bucket}/{self.key(name)}"
        try:
            return action(self._client)
        except Exception as error:
            if not is_from_store(error):
                raise
            target = self.settings.name
            if error_code(error)[1] == 404 and name:
                raise ObjectMissingError(
                    f"target {target!r}: there is no object {address}"
                ) from None
            raise translate(
                error, target, address, self.settings.endpoint_url, writing=writing
            ) from None
