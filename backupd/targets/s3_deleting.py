"""Deleting objects of a bucket, many of them in one request (S3's `DeleteObjects`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from backupd.errors import (
    ObjectMissingError,
    TargetError,
    TargetReadOnlyError,
    TargetUnreachableError,
)
from backupd.targets.base import check_name

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

DELETE_MOST = 1000  # "a list of up to 1,000 keys" (Amazon S3 API reference, DeleteObjects)
_GONE = ("NoSuchKey", "NotFound", "")


class Deleting:
    """Deletes by the thousand, and one by one at a store that does not know how.

    `run` does an action with a client for the object of a name, and turns what it raises into
    words.
    """

    def __init__(
        self, run: Callable[[str, Callable[[S3Client], object]], object], bucket: str, prefix: str
    ) -> None:
        self._run = run
        self._bucket = bucket
        self._prefix = prefix
        self._known = True

    def delete(self, name: str) -> None:
        """Delete one object; an absent one is no error. Raises `TargetError`."""
        key = self._prefix + name
        try:
            self._run(name, lambda client: client.delete_object(Bucket=self._bucket, Key=key))
        except ObjectMissingError:
            pass  # Amazon says nothing of it, others answer 404

    def delete_many(self, names: Sequence[str]) -> None:
        """Delete all of these. Raises `TargetError`."""
        keys = [self._prefix + check_name(name) for name in names]
        for begin in range(0, len(names), DELETE_MOST):
            end = begin + DELETE_MOST
            if self._known and self._delete_at_once(names[begin], keys[begin:end]):
                continue
            for name in names[begin:end]:
                self.delete(name)

    def _delete_at_once(self, first: str, keys: Sequence[str]) -> bool:
        try:
            self._run(first, lambda client: delete_keys(client, self._bucket, keys))
        except (TargetUnreachableError, TargetReadOnlyError):
            raise
        except TargetError:
            self._known = False  # what is wrong, if anything is, the single deletes will say
            return False
        return True


def delete_keys(client: S3Client, bucket: str, keys: Sequence[str]) -> None:
    """Delete up to `DELETE_MOST` keys; absent ones are no error.

    Raises boto3's `ClientError` with the first refusal of a single key as well.
    """
    from botocore.exceptions import ClientError

    objects: Any = [{"Key": key} for key in keys]
    answer = client.delete_objects(Bucket=bucket, Delete={"Objects": objects, "Quiet": True})
    for refused in answer.get("Errors", ()):
        code = str(refused.get("Code", ""))
        if code not in _GONE:
            response: Any = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": 0}}
            raise ClientError(response, "DeleteObjects")
