"""The boto3 client of a bucket target, made from its settings.

Imports boto3, so it is itself imported only where a bucket is really used.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import botocore.session
from botocore.config import Config
from botocore.loaders import create_loader
from botocore.parsers import ResponseParserError
from botocore.utils import parse_timestamp

from backupd.config.settings import S3Target
from backupd.errors import TargetError
from backupd.targets.s3_connections import use_direct_connections

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

# What writes an object, and what needs the key of one that is encrypted with a customer's.
_WRITING = ("PutObject", "CreateMultipartUpload", "CopyObject")
_WITH_KEY = ("PutObject", "CreateMultipartUpload", "UploadPart", "GetObject", "HeadObject")
_KEY_BYTES = 32
# Kinds in which stores count requests, by the beginning of the operation's name.
_KINDS = (
    ("Head", "stat"),
    ("GetObject", "get"),
    ("Get", "stat"),
    ("List", "list"),
    ("Delete", "delete"),
    ("Abort", "delete"),
)

# What the parsers of moments raise, each in its own cases.
_NO_MOMENT = (TypeError, ValueError, AttributeError, OverflowError, RuntimeError)

# It keeps what it has parsed of botocore's description of S3, which takes two thirds of the time
# that a client does. A daemon makes clients for every job.
_LOADER = create_loader()


def make_client(
    settings: S3Target,
    *,
    connections: int,
    attempts: int = 1,
    on_request: Callable[[str], None] | None = None,
) -> S3Client:
    """A client that keeps up to `connections` connections and makes `attempts` tries.

    Where the settings name credentials (a file, a profile) only those are used; else boto3's
    whole chain. `on_request` is told of each request that is sent: put, get, stat, list, delete.
    Raises what botocore raises for a profile or file that is not there, and `TargetError` for a
    customer's key that cannot be used.
    """
    core = botocore.session.Session()
    core.register_component("data_loader", _LOADER)
    core.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=parse_time)
    if settings.credentials_file is not None:
        core.set_config_variable("credentials_file", str(settings.credentials_file))
    if settings.profile or settings.credentials_file is not None:
        # Naming a profile is also what keeps AWS_ACCESS_KEY_ID from going before the file.
        core.set_config_variable("profile", settings.profile or "default")
    options: dict[str, Any] = {
        "connect_timeout": settings.connect_timeout_seconds,
        "read_timeout": settings.read_timeout_seconds,
        "max_pool_connections": connections,
        "tcp_keepalive": True,
        "retries": {"mode": "standard", "total_max_attempts": attempts},
        "request_checksum_calculation": settings.checksums,
        "response_checksum_validation": settings.checksums,
    }
    if settings.path_style:
        options["s3"] = {"addressing_style": "path"}
    if settings.proxy:
        options["proxies"] = {"http": settings.proxy, "https": settings.proxy}
    session = boto3.session.Session(botocore_session=core)
    client: S3Client = session.client(
        "s3",
        endpoint_url=settings.endpoint_url or None,
        # Stores other than Amazon's mostly have no regions, yet a signature needs one.
        region_name=settings.region or ("us-east-1" if settings.endpoint_url else None),
        verify=str(settings.ca_bundle) if settings.ca_bundle else None,
        config=Config(**options),
    )
    use_direct_connections(client)
    _encrypt(client, settings)
    if on_request is not None:
        _count(client, on_request)
    return client


def parse_time(written: str) -> datetime:
    """A moment as stores write it: ISO 8601 in a listing, RFC 9110's way in a head, or otherwise.

    botocore's own parser, which knows all others, takes 50 µs for each. Raises botocore's
    `ResponseParserError` for what is no moment.
    """
    for parse in (datetime.fromisoformat, parsedate_to_datetime):
        with suppress(*_NO_MOMENT):
            moment = parse(written)
            if moment.tzinfo is not None:
                return moment
    try:
        return parse_timestamp(written)
    except _NO_MOMENT:
        raise ResponseParserError(f"{str(written)[:40]!r} is no moment") from None


def _encrypt(client: S3Client, settings: S3Target) -> None:
    """Have every request that needs them carry the headers of server-side encryption."""
    if settings.sse == "customer" and settings.sse_customer_key_file is not None:
        key = _read_key(settings.name, settings.sse_customer_key_file)
        _add(client, _WITH_KEY, {"SSECustomerAlgorithm": "AES256", "SSECustomerKey": key})
    elif settings.sse:
        headers = {"ServerSideEncryption": settings.sse}
        if settings.sse_kms_key:
            headers["SSEKMSKeyId"] = settings.sse_kms_key
        _add(client, _WRITING, headers)


def _add(client: S3Client, operations: tuple[str, ...], parameters: dict[str, Any]) -> None:
    def provide(params: dict[str, Any], **_: object) -> None:
        params.update(parameters)

    for operation in operations:
        client.meta.events.register(f"provide-client-params.s3.{operation}", provide)


def _count(client: S3Client, on_request: Callable[[str], None]) -> None:
    def count(event_name: str, **_: object) -> None:
        operation = event_name.rpartition(".")[2]
        on_request(next((kind for name, kind in _KINDS if operation.startswith(name)), "put"))

    client.meta.events.register("before-send.s3", count)


def _read_key(target: str, path: Path) -> bytes:
    """The 32 bytes of a customer's key; never shown."""
    try:
        with path.open("rb") as file:
            found = file.read(4096)
    except OSError as error:
        raise TargetError(
            f"target {target!r}: its key {path} cannot be read: {error.strerror}",
            hint="restore the file: without it nothing on the target can be read",
        ) from None
    if len(found) != _KEY_BYTES:
        try:
            found = base64.b64decode(found.strip(), validate=True)
        except ValueError:
            found = b""
    if len(found) != _KEY_BYTES:
        raise TargetError(
            f"target {target!r}: {path} holds no key of {_KEY_BYTES} bytes",
            hint=f"make one: head -c {_KEY_BYTES} /dev/urandom | base64 > {path}",
        )
    return found
