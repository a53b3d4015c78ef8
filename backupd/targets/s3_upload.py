"""Uploads in parts: several at once, and nothing left behind when one fails."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from backupd.targets.base import Buffer
from backupd.targets.parts import PartsReader
from backupd.targets.s3_lock import md5_option

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client
    from mypy_boto3_s3.type_defs import CompletedPartTypeDef

# Amazon's limit on the parts of one upload.
_MAX_PARTS = 10_000
_STALE_SECONDS = 86_400.0


def upload_in_parts(
    client: S3Client,
    pool: ThreadPoolExecutor,
    bucket: str,
    key: str,
    parts: Sequence[Buffer],
    size: int,
    *,
    part_bytes: int,
    options: Mapping[str, Any],
) -> None:
    """Store `parts`, `size` bytes in all, under `key` in pieces of `part_bytes` (larger where
    there would be too many), sent by `pool`; `options` are those of the upload as a whole.

    Raises what boto3 raises; the upload is then aborted, so that the store keeps no piece.
    """
    step = max(part_bytes, -(-size // _MAX_PARTS))
    upload = client.create_multipart_upload(Bucket=bucket, Key=key, **options)["UploadId"]

    def send(number: int, start: int) -> CompletedPartTypeDef:
        stop = min(start + step, size)
        body = PartsReader(parts, start, stop)
        checksum = md5_option(parts, start, stop) if "ObjectLockMode" in options else {}
        answer = client.upload_part(
            Bucket=bucket,
            Key=key,
            UploadId=upload,
            PartNumber=number,
            Body=body,  # type: ignore[arg-type]
            **checksum,  # type: ignore[arg-type]
        )
        return {"PartNumber": number, "ETag": answer["ETag"]}

    running: list[Future[CompletedPartTypeDef]] = []
    try:
        for number, start in enumerate(range(0, size, step), start=1):
            running.append(pool.submit(send, number, start))
        done = [future.result() for future in running]
        client.complete_multipart_upload(
            Bucket=bucket, Key=key, UploadId=upload, MultipartUpload={"Parts": done}
        )
    except BaseException:
        for future in running:
            future.cancel()
        # A piece that arrives after the abort would stay, so those on their way land first.
        wait(running)
        _abort(client, bucket, key, upload)
        raise


def abort_stale_uploads(client: S3Client, bucket: str, prefix: str) -> None:
    """Abort uploads below `prefix` begun over a day ago by the store's clock: their writers were
    killed, and the store charges for the pieces without listing them."""
    try:
        answer = client.list_multipart_uploads(Bucket=bucket, Prefix=prefix)
        now = parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"])
        for upload in answer.get("Uploads", []):
            if (now - upload["Initiated"]).total_seconds() > _STALE_SECONDS:
                _abort(client, bucket, upload["Key"], upload["UploadId"])
    except Exception:
        return  # these credentials may not list uploads; a lifecycle rule does it as well


def _abort(client: S3Client, bucket: str, key: str, upload: str) -> None:
    """Abort as well as can be: the error that led here is the one to be told."""
    try:
        client.abort_multipart_upload(Bucket=bucket, Key=key, UploadId=upload)
    except Exception:
        return
