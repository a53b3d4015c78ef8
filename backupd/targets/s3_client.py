"""The boto3 client of a bucket target, made from its settings.

Imports boto3, so it is itself imported only where a bucket is really used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import boto3
import botocore.session
from botocore.config import Config

from backupd.config.settings import S3Target

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client


def make_client(settings: S3Target, *, connections: int) -> S3Client:
    """A client that keeps up to `connections` connections and tries nothing twice.

    Where the settings name credentials (a file, a profile) only those are used; else boto3's
    whole chain. Raises what botocore raises for a profile or file that is not there.
    """
    core = botocore.session.Session()
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
        "retries": {"mode": "standard", "total_max_attempts": 1},
        "request_checksum_calculation": settings.checksums,
        "response_checksum_validation": settings.checksums,
    }
    if settings.path_style:
        options["s3"] = {"addressing_style": "path"}
    session = boto3.session.Session(botocore_session=core)
    return session.client(
        "s3",
        endpoint_url=settings.endpoint_url or None,
        # Stores other than Amazon's mostly have no regions, yet a signature needs one.
        region_name=settings.region or ("us-east-1" if settings.endpoint_url else None),
        verify=str(settings.ca_bundle) if settings.ca_bundle else None,
        config=Config(**options),
    )
