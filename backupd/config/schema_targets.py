"""The keys of `targets`: where repositories lie."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Literal

from pydantic import Field, model_validator

from backupd.config.section import Section
from backupd.config.values import (
    Bucket,
    Duration,
    Endpoint,
    FullPath,
    MetadataClass,
    Moment,
    Prefix,
    Price,
    Rate,
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
        " not fill the disk under it; and when another disk or share is mounted there.",
        examples=["true"],
    )
    read_back: Literal["ends", "whole"] = Field(
        "ends",
        description="How much of a large object is read back before it counts as stored; small"
        " ones are always read back whole.",
        examples=["whole"],
    )
    give_up_after: Duration = Field(
        timedelta(minutes=3),
        description="How long one operation on the mount may take. A mount that hangs is then"
        " reported, and left alone until it answers.",
        examples=["3m"],
    )
    upload: Rate | None = Field(
        None,
        description="The most that is sent to this target; `limits.upload` holds beside it.",
        examples=["50MB/s"],
    )


class PricesSection(Section):
    """What requests cost at a store, for `backupd status`; per 1,000 of a kind."""

    currency: Text = Field("USD", description="The currency, as it is shown.", examples=["EUR"])
    put: Price = Field(
        description="What 1,000 requests cost that store something.", examples=["0.005"]
    )
    get: Price = Field(
        description="What 1,000 requests cost that read an object.", examples=["0.0004"]
    )
    list: Price = Field(
        description="What 1,000 requests cost that list objects.", examples=["0.005"]
    )


class ObjectLockSection(Section):
    """How long the store is to refuse that anything is deleted."""

    mode: Literal["GOVERNANCE", "COMPLIANCE"] = Field(
        description="`GOVERNANCE` can be lifted by who has the right to bypass it, `COMPLIANCE` by"
        " nobody.",
        examples=["COMPLIANCE"],
    )
    days: int = Field(
        ge=1,
        le=36_500,
        description="For how long from when an object is stored. What snapshots still need is held"
        " on by `upkeep: {extend: ...}`, from when half of it has passed.",
        examples=["30"],
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
    metadata_storage_class: MetadataClass = Field(
        "",
        description="The storage class of the index, snapshots and keys: small and read often,"
        " and never one that must be thawed.",
        examples=["STANDARD_IA"],
    )
    object_lock: ObjectLockSection | None = Field(
        None,
        description="Have the store keep everything that a restore needs from being deleted, by"
        " whomever. The bucket must have Object Lock.",
        examples=["{mode: COMPLIANCE, days: 30}"],
    )
    append_only: bool = Field(
        False,
        description="These credentials may add and not delete: forget and prune leave the target"
        " alone here, and run elsewhere.",
        examples=["true"],
    )
    as_of: Moment | None = Field(
        None,
        description="Look at the bucket as it was at a time that has passed, and only read it; the"
        " bucket must keep versions.",
        examples=["2026-11-20T14:30"],
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
    proxy: Endpoint = Field(
        "",
        description="The proxy to reach the store through; without it HTTPS_PROXY and NO_PROXY of"
        " the environment count.",
        examples=["http://proxy.example.org:3128"],
    )
    sse: Literal["AES256", "aws:kms", "customer"] | None = Field(
        None,
        description="How the store itself encrypts what it keeps, on top of what backupd does:"
        " with a key of its own (`AES256`), one of its key service (`aws:kms`), or one that it is"
        " given with each request (`customer`).",
        examples=["AES256"],
    )
    sse_kms_key: Text | None = Field(
        None,
        description="The id of the key, with `sse: aws:kms`; without it the store's own.",
        examples=["alias/backups"],
    )
    sse_customer_key_file: FullPath | None = Field(
        None,
        description="The file of the key, with `sse: customer`: 32 bytes, as they are or in"
        " base64. Without this file nothing can be read any more: keep it with the recovery key.",
        examples=["/etc/backupd/s3-key"],
    )
    prices: PricesSection | None = Field(
        None,
        description="What requests cost there; without it Amazon's list prices, for Amazon alone.",
        examples=["{put: 0.005, get: 0.0004, list: 0.005}"],
    )
    upload: Rate | None = Field(
        None,
        description="The most that is sent to this target; `limits.upload` holds beside it.",
        examples=["50MB/s"],
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

    @model_validator(mode="after")
    def _keys_of_their_mode(self) -> S3TargetSection:
        if self.sse == "customer" and self.sse_customer_key_file is None:
            raise ValueError("has sse: customer and no key; write sse_customer_key_file:")
        if self.sse != "customer" and self.sse_customer_key_file is not None:
            raise ValueError("has sse_customer_key_file, which counts only with sse: customer")
        if self.sse != "aws:kms" and self.sse_kms_key is not None:
            raise ValueError("has sse_kms_key, which counts only with sse: aws:kms")
        return self


TargetKind = LocalTargetSection | NasTargetSection | S3TargetSection
TargetSection = Annotated[TargetKind, Field(discriminator="type")]
