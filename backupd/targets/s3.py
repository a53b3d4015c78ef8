"""A target that is a prefix of a bucket in Amazon S3 or a store that speaks its protocol.

What the store's errors mean lives in `s3_errors`; nothing in here knows what an object holds.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from backupd.config.settings import S3Target
from backupd.errors import ObjectMissingError, TargetError
from backupd.targets.base import (
    Buffer,
    ObjectInfo,
    check_name,
    check_prefix,
    is_name,
    total_size,
)
from backupd.targets.capabilities import Creation
from backupd.targets.claims import Claims
from backupd.targets.parts import PartsReader
from backupd.targets.s3_bodies import fill, object_body, skip
from backupd.targets.s3_classes import is_cold
from backupd.targets.s3_conditions import FOLDER, Conditions
from backupd.targets.s3_deleting import Deleting
from backupd.targets.s3_errors import absent_bucket, error_code, is_from_store, translate
from backupd.targets.s3_lock import ObjectLock
from backupd.targets.s3_upload import abort_stale_uploads, upload_in_parts

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

_Result = TypeVar("_Result")

MiB = 1 << 20
# Up to here one request stores an object, as packs are meant to cost one PUT each.
_MULTIPART_BYTES = 64 * MiB
_PART_BYTES = 16 * MiB
# What Amazon takes in a single PUT.
_MAX_SINGLE_BYTES = 5 << 30
_STREAMS = 4
_CONNECTIONS = 32


class BucketTarget:
    """A `Target` in a bucket.

    `storage_classes` maps folders of objects (as `packs/`) to the storage class they are put in.
    The client is made at the first use, from the settings and what boto3's own chain finds;
    `on_request` is told the kind of each request that it sends (`s3_client`). Once `stop` is set
    other writers are not waited for: `StoppedError` is raised.
    Nothing is tried again here: `retry.RetryTarget` does that for every kind of request alike.
    """

    def __init__(
        self,
        settings: S3Target,
        *,
        storage_classes: Mapping[str, str] | None = None,
        multipart_bytes: int = _MULTIPART_BYTES,
        part_bytes: int = _PART_BYTES,
        page_size: int = 1000,
        lock: ObjectLock | None = None,
        on_request: Callable[[str], None] | None = None,
        stop: threading.Event | None = None,
    ) -> None:
        self._settings = settings
        self._bucket = settings.bucket
        prefix = settings.prefix.strip("/")
        self._prefix = f"{prefix}/" if prefix else ""
        self._storage_classes = dict(storage_classes or {})
        self._multipart_bytes = multipart_bytes
        self._part_bytes = part_bytes
        self._page_size = page_size
        self._object_lock = lock
        self._on_request = on_request
        self._lock = threading.Lock()
        self._made: S3Client | None = None
        self._pool: ThreadPoolExecutor | None = None
        self._conditions = Conditions(
            lambda action: self._run(FOLDER, action, writing=True), self._bucket, self._prefix
        )
        self._claims = Claims(self, stop=stop)
        self._bucket_seen = False
        self._deleting = Deleting(
            lambda name, action: self._run(name, action, writing=True), self._bucket, self._prefix
        )

    @property
    def name(self) -> str:
        """The target's name in the configuration."""
        return self._settings.name

    @property
    def location(self) -> str:
        """Bucket and prefix as an `s3://` address."""
        return f"s3://{self._bucket}/{self._prefix}".rstrip("/")

    def put(self, name: str, parts: Sequence[Buffer], *, warm: bool = False) -> None:
        """See `Target.put`."""
        check_name(name)
        size = total_size(parts)
        if size > self._multipart_bytes:
            self._put_in_parts(name, parts, size, warm=warm)
        else:
            self._put_whole(name, parts, size, warm=warm)

    def put_if_absent(self, name: str, parts: Sequence[Buffer]) -> bool:
        """See `Target.put_if_absent`.

        By `If-None-Match: *` where the server was seen to let one of racing writers win
        (`s3_conditions`); else by claims (`claims`).
        """
        check_name(name)
        size = total_size(parts)
        if size > _MAX_SINGLE_BYTES:
            raise TargetError(
                f"target {self.name!r}: {name} has {size} bytes; "
                f"at most {_MAX_SINGLE_BYTES} can be stored under a condition"
            )
        creation = self._conditions.seen()
        if creation is Creation.ATOMIC:
            return self._put_whole(name, parts, size, only_if_absent=True)
        return self._claims.put_if_absent(
            name,
            parts,
            # Where a later writer at least is refused, that is one guard more.
            store=lambda: self._put_whole(
                name, parts, size, only_if_absent=creation is Creation.RACY
            ),
        )

    def get(self, name: str, max_bytes: int) -> bytes:
        """See `Target.get`."""
        which = self._which(check_name(name))

        def read(client: S3Client) -> bytes:
            answer = client.get_object(Bucket=self._bucket, Key=self._key(name), **which)
            body, size = object_body(answer), answer["ContentLength"]
            try:
                if size > max_bytes:
                    raise TargetError(
                        f"target {self.name!r}: {self._address(name)} has {size} bytes, "
                        f"more than the {max_bytes} it may have"
                    )
                data = bytearray(size)
                if not fill(body, memoryview(data)):
                    raise self._short(name)
                return bytes(data)
            finally:
                body.close()

        return self._run(name, read, writing=False)

    def read_into(self, name: str, offset: int, buffer: memoryview) -> None:
        """See `Target.read_into`."""
        which = self._which(check_name(name))
        view = buffer.cast("B")
        end = offset + view.nbytes

        def read(client: S3Client) -> None:
            if not view.nbytes:
                client.head_object(Bucket=self._bucket, Key=self._key(name), **which)
                return
            answer = client.get_object(
                Bucket=self._bucket,
                Key=self._key(name),
                Range=f"bytes={offset}-{end - 1}",
                **which,
            )
            body = object_body(answer)
            try:
                # Not the status tells what came: some servers answer 200 with the whole object,
                # and some 200 with the range.
                given = answer.get("ContentRange", "").startswith(f"bytes {offset}-")
                if not ((given or skip(body, offset)) and fill(body, view)):
                    raise self._short(name)
            finally:
                body.close()

        self._run(name, read, writing=False)

    def stat(self, name: str) -> ObjectInfo | None:
        """See `Target.stat`."""
        check_name(name)

        def look(client: S3Client) -> ObjectInfo:
            which = self._which(name)
            found = client.head_object(Bucket=self._bucket, Key=self._key(name), **which)
            modified = found["LastModified"].timestamp()
            return ObjectInfo(name, found["ContentLength"], modified, is_cold(found))

        try:
            return self._run(name, look, writing=False)
        except ObjectMissingError:
            return None

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """See `Target.list`."""
        check_prefix(prefix)
        token: str | None = ""
        while token is not None:
            found, token = self._run(prefix, partial(self._page, prefix, token), writing=False)
            yield from found

    def _page(
        self, prefix: str, token: str, client: S3Client
    ) -> tuple[Sequence[ObjectInfo], str | None]:
        """A part of a listing, the first or that of `token`; and the token of the next, if any."""
        where: dict[str, Any] = {"Prefix": self._key(prefix), "MaxKeys": self._page_size}
        if token:
            where["ContinuationToken"] = token
        page = client.list_objects_v2(Bucket=self._bucket, **where)
        found = []
        for entry in page.get("Contents", []):
            name = entry["Key"][len(self._prefix) :]
            if is_name(name):
                modified = entry["LastModified"].timestamp()
                found.append(ObjectInfo(name, entry["Size"], modified, is_cold(entry)))
        if not page.get("IsTruncated"):
            return found, None
        if not page.get("NextContinuationToken"):
            raise KeyError("NextContinuationToken")
        return found, page["NextContinuationToken"]

    def delete(self, name: str) -> None:
        """See `Target.delete`."""
        self._deleting.delete(check_name(name))

    def delete_many(self, names: Sequence[str]) -> None:
        """See `Target.delete_many`."""
        self._deleting.delete_many(names)

    def close(self) -> None:
        """Close connections and threads."""
        with self._lock:
            client, self._made = self._made, None
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown()
        if client is not None:
            client.close()

    def check_bucket(self) -> None:
        """Raise the `TargetError` that says why the bucket cannot be used, if it cannot."""
        self._run("", lambda client: client.head_bucket(Bucket=self._bucket), writing=False)

    def ask(
        self, action: Callable[[S3Client, str, str], _Result], *, writing: bool = False
    ) -> _Result:
        """Do `action(client, bucket, prefix)`, for what `Target` has no word for.

        Raises `TargetError` in words where the store or boto3 fails.
        """
        return self._run("", lambda client: action(client, self._bucket, self._prefix),
                         writing=writing)  # fmt: skip

    def creation(self, *, anew: bool = False) -> Creation:
        """What the server makes of conditions: as recorded, or raced for `anew`."""
        return self._conditions.look_again() if anew else self._conditions.seen()

    def _which(self, name: str) -> dict[str, Any]:
        """What a request to read the object says beside its name; the latest version is meant."""
        return {}

    def _key(self, name: str) -> str:
        return self._prefix + name

    def _address(self, name: str) -> str:
        return f"s3://{self._bucket}/{self._key(name)}"

    def _run(self, name: str, action: Callable[[S3Client], _Result], *, writing: bool) -> _Result:
        """Do `action` with the client; what boto3 raises becomes words."""
        try:
            result = action(self._client())
        except Exception as error:
            if not is_from_store(error):
                raise
            raise self._explain(error, name, writing=writing) from None
        self._bucket_seen = True
        return result

    def _explain(self, error: Exception, name: str, *, writing: bool) -> TargetError:
        endpoint_url = self._settings.endpoint_url
        code, status = error_code(error)
        if code == "NoSuchKey" or (status == 404 and code != "NoSuchBucket"):
            if not name:
                return absent_bucket(self.name, self._bucket, endpoint_url)
            if not self._bucket_seen:
                # An answer to HEAD has no body that would tell which of the two is absent.
                self.check_bucket()
            return ObjectMissingError(
                f"target {self.name!r}: there is no object {self._address(name)}"
            )
        if status == 416:
            return self._short(name)
        return translate(error, self.name, self._address(name), endpoint_url, writing=writing)

    def _put_whole(
        self,
        name: str,
        parts: Sequence[Buffer],
        size: int,
        *,
        only_if_absent: bool = False,
        warm: bool = False,
    ) -> bool:
        """Store the object with one request; false where the condition did not hold."""
        options = self._options(name, warm=warm)
        if self._object_lock is not None:
            options |= self._object_lock.put_options(name, parts)
        if only_if_absent:
            options["IfNoneMatch"] = "*"

        def send(client: S3Client) -> bool:
            body: Any = PartsReader(parts) if size else b""
            try:
                client.put_object(Bucket=self._bucket, Key=self._key(name), Body=body, **options)
            except Exception as error:
                if only_if_absent and error_code(error)[1] == 412:
                    return False
                raise
            return True

        return self._run(name, send, writing=True)

    def _put_in_parts(self, name: str, parts: Sequence[Buffer], size: int, *, warm: bool) -> None:
        options = self._options(name, warm=warm)
        if self._object_lock is not None:
            options |= self._object_lock.upload_options(name)
        with self._lock:
            first = self._pool is None
            if self._pool is None:
                self._pool = ThreadPoolExecutor(_STREAMS, thread_name_prefix=f"s3-{self.name}")
            pool = self._pool

        def send(client: S3Client) -> None:
            if first:
                abort_stale_uploads(client, self._bucket, self._prefix)
            upload_in_parts(
                client,
                pool,
                self._bucket,
                self._key(name),
                parts,
                size,
                part_bytes=self._part_bytes,
                options=options,
            )

        self._run(name, send, writing=True)

    def _options(self, name: str, *, warm: bool = False) -> dict[str, Any]:
        # A warm pack holds what an index is to data: where it lies.
        folder = "index/" if warm else f"{name.partition('/')[0]}/"
        if storage_class := self._storage_classes.get(folder):
            return {"StorageClass": storage_class}
        return {}

    def _short(self, name: str) -> TargetError:
        return TargetError(
            f"target {self.name!r}: {self._address(name)} ends before the bytes asked for",
            hint="it is damaged or was cut short; `backupd check` says what that hurts",
        )

    def _client(self) -> S3Client:
        with self._lock:
            if self._made is None:
                # Imported here for its 180 ms, which a local target is not to pay.
                from backupd.targets.s3_client import make_client

                self._made = make_client(
                    self._settings, connections=_CONNECTIONS, on_request=self._on_request
                )
            return self._made
