"""The keys of `targets`: where repositories lie."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Literal

from pydantic import Field

from backupd.config.section import Section
from backupd.config.values import (
    Bucket,
    Duration,
    Endpoint,
    FullPath,
    Prefix,
    StorageClass,
    Text,
)


class LocalTargetSection(Section):
    """A folder on a disk of this box."""

    type: Literal["local"] = Field(description="A folder on a disk of this box.")
    path: FullPath = Field(
        description="The folder of the repository; it is made by `backupd init`.",
        examples=["/var/backups/models"],
    )


class NasTargetSection(Section):
    """A folder on a network mount."""

    type: Literal["nas"] = Field(description="A folder on a network mount.")
    path: FullPath = Field(
        description="The folder of the repository on the mount.", examples=["/mnt/nas/models"]
    )
    require_mount: bool = Field(
        True,
        description="Refuse to write when nothing is mounted there, so that an absent mount does"
        " not fill the disk under it.",
        examples=["true"],
    )


class S3TargetSection(Section):
    """A prefix of a bucket in an S3-compatible store."""

    type: Literal["s3"] = Field(description="A prefix of a bucket in an S3-compatible store.")
    bucket: Bucket = Field(description="The bucket; it must exist.", examples=["team-models"])
    prefix: Prefix = Field("", description="The folder within the bucket.", examples=["box1"])
    endpoint_url: Endpoint = Field(
        "",
        description="The store's address, where it is not Amazon's.",
        examples=["https://s3.example.org"],
    )
    region: Text | None = Field(None, description="The store's region.", examples=["eu-central-1"])
    profile: Text | None = Field(
        None,
        description="The profile of the AWS credential files to use.",
        examples=["backup"],
    )
    credentials_file: FullPath | None = Field(
        None,
        description="A file in the form of `~/.aws/credentials`; without it boto3 looks where it"
        " always looks.",
        examples=["/etc/backupd/s3-credentials"],
    )
    storage_class: StorageClass = Field(
        "",
        description="The storage class of packs; everything else is small and read often.",
        examples=["STANDARD_IA"],
    )
    path_style: bool = Field(
        False,
        description="Write the bucket into the path of an address and not into its host name.",
        examples=["true"],
    )
    ca_bundle: FullPath | None = Field(
        None,
        description="Certificates to trust, for a store with one of its own.",
        examples=["/etc/ssl/certs/store.pem"],
    )
    checksums: Literal["when_required", "when_supported"] = Field(
        "when_required",
        description="Whether boto3 adds its own checksums; many stores refuse them.",
        examples=["when_required"],
    )
    connect_timeout: Duration = Field(
        timedelta(seconds=10),
        description="How long to wait for a connection.",
        examples=["10s"],
    )
    read_timeout: Duration = Field(
        timedelta(seconds=60),
        description="How long to wait for the next bytes of an answer.",
        examples=["60s"],
    )


TargetKind = LocalTargetSection | NasTargetSection | S3TargetSection
TargetSection = Annotated[TargetKind, Field(discriminator="type")]
