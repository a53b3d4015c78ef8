"""The keys of a configuration: their types, defaults, and the words that describe them.

The reference in `docs/configuration.md` and the JSON schema are made from what is said here.
What one value alone can tell is refused here and in `values`; what takes two values to see is
`consistency`'s.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from backupd.config.values import (
    Bucket,
    Count,
    CronText,
    Duration,
    Endpoint,
    FullPath,
    Name,
    Naming,
    Pattern,
    Percent,
    Policies,
    Prefix,
    Rate,
    StorageClass,
    Text,
    TimeZone,
    UpkeepCron,
)
from backupd.policy.naming import DEFAULT_NAMING


class Section(BaseModel):
    """A mapping of the file; unknown keys are refused."""

    # Built at first use: only the loader needs it, and it costs more than the import.
    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)


class KeySection(Section):
    """How the repositories are opened: exactly one of the four."""

    file: FullPath | None = Field(
        None,
        description="A file that holds the key, made by `backupd init`. Only its owner may read"
        " it.",
        examples=["/etc/backupd/key"],
    )
    passphrase_file: FullPath | None = Field(
        None,
        description="A file whose first line is the passphrase.",
        examples=["/etc/backupd/passphrase"],
    )
    passphrase_command: Text | None = Field(
        None,
        description="A command that prints the passphrase, such as one of a password manager.",
        examples=["pass show backupd"],
    )
    encryption: Literal["none"] | None = Field(
        None,
        description="`none` stores everything readable by whoever can read the target.",
        examples=["none"],
    )

    @model_validator(mode="after")
    def _exactly_one(self) -> KeySection:
        given = sorted(self.model_fields_set)
        if not given:
            raise ValueError(
                "names no key; write one of file, passphrase_file, passphrase_command or"
                " encryption: none"
            )
        if len(given) > 1:
            raise ValueError(f"gives {' and '.join(given)}; keep one of them")
        return self


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


TargetSection = Annotated[
    LocalTargetSection | NasTargetSection | S3TargetSection, Field(discriminator="type")
]


class KeepBestSection(Section):
    """Keep the snapshots whose metric is best."""

    metric: Text = Field(description="The metric to compare by.", examples=["eval_loss"])
    mode: Literal["min", "max"] = Field(
        description="Whether the lowest or the highest is best.", examples=["min"]
    )
    count: Count = Field(1, description="How many to keep.", examples=["3"])


class PolicySection(Section):
    """Rules that each keep some snapshots; a snapshot is kept when any rule keeps it."""

    keep_last: Count | None = Field(None, description="The newest so many.", examples=["5"])
    keep_within: Duration | None = Field(
        None,
        description="All that are at most so much older than the newest one; a box that was off"
        " for a month therefore loses none.",
        examples=["2d"],
    )
    keep_hourly: Count | None = Field(
        None,
        description="The newest of each of the last so many hours that have any.",
        examples=["24"],
    )
    keep_daily: Count | None = Field(
        None,
        description="The newest of each of the last so many days that have any.",
        examples=["7"],
    )
    keep_weekly: Count | None = Field(
        None,
        description="The newest of each of the last so many weeks (from Monday) that have any.",
        examples=["8"],
    )
    keep_monthly: Count | None = Field(
        None,
        description="The newest of each of the last so many months that have any.",
        examples=["24"],
    )
    keep_yearly: Count | None = Field(
        None,
        description="The newest of each of the last so many years that have any.",
        examples=["5"],
    )
    keep_labels: list[Text] | None = Field(
        None,
        description="Those that carry one of these labels, whatever its value, or `label=value`.",
        examples=["[release, stage=prod]"],
    )
    keep_best: KeepBestSection | None = Field(
        None,
        description="Those whose metric is best.",
        examples=["{metric: eval_loss, mode: min, count: 3}"],
    )

    @model_validator(mode="after")
    def _keeps_something(self) -> PolicySection:
        if not self.model_fields_set or (
            self.model_fields_set == {"keep_labels"} and not self.keep_labels
        ):
            raise ValueError("keeps nothing; give it a rule, such as keep_last: 5")
        return self


class ModelSection(Section):
    """A watched folder."""

    path: FullPath = Field(
        description="The folder to watch and to snapshot.", examples=["/srv/runs/llama-ft"]
    )
    project: Name | None = Field(
        None, description="What the model belongs to; for names.", examples=["chat"]
    )
    schedule: CronText = Field(
        "*/15 * * * *",
        description="When to look for changes, as in a crontab: minute, hour, day of month,"
        " month, weekday. Nothing is stored where nothing changed.",
        examples=['"*/15 * * * *"'],
    )
    timezone: TimeZone | None = Field(
        None,
        description="The time zone of the schedule, and of the days of the retention rules;"
        " without it the box's own.",
        examples=["Europe/Berlin"],
    )
    exclude: list[Pattern] = Field(
        [],
        description="What to leave out, in the patterns of `.gitignore`.",
        examples=['["tmp-*", "*.lock"]'],
    )
    one_filesystem: bool = Field(
        True,
        description="Leave out what is mounted within the folder.",
        examples=["true"],
    )
    targets: dict[str, Policies] = Field(
        description="Where the snapshots go: each target with the policy, or the list of"
        " policies, that thins them there.",
        examples=["{disk: working, s3: archive}"],
    )


class UpkeepSection(Section):
    """When the repositories are kept in order: cron schedules, or `never`."""

    forget: UpkeepCron = Field(
        "0 3 * * *", description="When the policies are applied.", examples=['"0 3 * * *"']
    )
    prune: UpkeepCron = Field(
        "30 3 * * sun",
        description="When the space of forgotten snapshots is reclaimed.",
        examples=['"30 3 * * sun"'],
    )
    check: UpkeepCron = Field(
        "0 4 * * *", description="When the targets are verified.", examples=['"0 4 * * *"']
    )
    read_data: Percent = Field(
        5.0,
        description="How much of the stored data each check reads back.",
        examples=["5%"],
    )


class LimitsSection(Section):
    """What backupd may take of the box."""

    threads: int = Field(
        2, ge=1, le=64, description="Threads that hash, compress and seal.", examples=["2"]
    )
    upload: Rate | None = Field(
        None,
        description="The most it sends to all targets together; without it there is no limit.",
        examples=["200MB/s"],
    )
    nice: int = Field(
        19, ge=0, le=19, description="The daemon's CPU priority; 19 gives way to all.",
        examples=["19"],
    )  # fmt: skip
    io: Literal["idle", "best-effort", "none"] = Field(
        "idle",
        description="The daemon's disk priority: `idle` gives way to all, `best-effort` is the"
        " lowest of the ordinary ones, `none` changes nothing.",
        examples=["idle"],
    )


class Configuration(Section):
    """A whole configuration file."""

    state_dir: FullPath | None = Field(
        None,
        description="Where the daemon keeps its state and its socket. Without it"
        " `/var/lib/backupd` for root, `~/.local/state/backupd` for others.",
        examples=["/var/lib/backupd"],
    )
    host: Name | None = Field(
        None,
        description="The name under which this box's snapshots are kept; without it the host name.",
        examples=["box1"],
    )
    key: KeySection = Field(
        description="How the repositories are opened.", examples=["{file: /etc/backupd/key}"]
    )
    naming: Naming = Field(
        DEFAULT_NAMING,
        description="How snapshots are named for people. Words: `{model_name}` or `{model}`,"
        " `{version}`, `{project_name}`, `{host}`, `{date}`, `{YYYYMMDD}`.",
        examples=[f'"{DEFAULT_NAMING}"'],
    )
    targets: dict[str, TargetSection] = Field(
        description="The places that hold repositories, each under a name of your choice.",
        examples=["{disk: {type: local, path: /var/backups/models}}"],
    )
    policies: dict[str, PolicySection] = Field(
        description="Sets of rules that say which snapshots are kept.",
        examples=["{working: {keep_last: 5, keep_daily: 7}}"],
    )
    models: dict[str, ModelSection] = Field(
        description="The folders to watch, each under a name of your choice.",
        examples=["{llama-ft: {path: /srv/runs/llama-ft, targets: {disk: working}}}"],
    )
    upkeep: UpkeepSection = Field(
        default_factory=lambda: UpkeepSection.model_validate({}),
        description="When the repositories are kept in order.",
        examples=['{prune: "30 3 * * sun"}'],
    )
    limits: LimitsSection = Field(
        default_factory=lambda: LimitsSection.model_validate({}),
        description="What backupd may take of the box.",
        examples=["{threads: 2}"],
    )
