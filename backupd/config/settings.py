"""The configuration as plain values, which is all that the rest of the house sees of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from backupd.policy.retention import Rules


@dataclass(frozen=True, slots=True)
class LocalTarget:
    """A folder on a disk of this box."""

    name: str
    path: Path


@dataclass(frozen=True, slots=True)
class NasTarget:
    """A folder on a network mount; with `require_mount` an absent mount is refused.

    What is put is read back, its ends or with `read_back_whole` all of it. An operation that takes
    longer than `hang_seconds` is given up.
    `upload_bytes_per_second` is the most that is sent there, 0 for no limit.
    """

    name: str
    path: Path
    require_mount: bool = True
    read_back_whole: bool = False
    hang_seconds: float = 180.0
    upload_bytes_per_second: int = 0


@dataclass(frozen=True, slots=True)
class Prices:
    """What 1,000 requests of a kind cost at a store."""

    put: float
    get: float
    list: float
    currency: str = "USD"


@dataclass(frozen=True, slots=True)
class S3Target:
    """A prefix of a bucket. Empty strings leave the choice to boto3's own chain.

    `object_lock_mode` is empty where no Object Lock is asked for. `as_of` (seconds since the
    epoch, 0 for now) is the time at which the bucket is looked at; then it is only read.
    """

    name: str
    bucket: str
    prefix: str = ""
    endpoint_url: str = ""
    region: str = ""
    profile: str = ""
    credentials_file: Path | None = None
    storage_class: str = ""
    metadata_storage_class: str = ""
    path_style: bool = False
    ca_bundle: Path | None = None
    proxy: str = ""
    sse: str = ""
    sse_kms_key: str = ""
    sse_customer_key_file: Path | None = None
    prices: Prices | None = None
    checksums: str = "when_required"
    connect_timeout_seconds: float = 10.0
    read_timeout_seconds: float = 60.0
    object_lock_mode: str = ""
    object_lock_days: int = 0
    append_only: bool = False
    as_of: float = 0.0
    upload_bytes_per_second: int = 0


TargetSettings = LocalTarget | NasTarget | S3Target


@dataclass(frozen=True, slots=True)
class KeySettings:
    """How the repository is opened: at most one of the three, none with `encryption: none`."""

    file: Path | None = None
    passphrase_file: Path | None = None
    passphrase_command: str = ""
    encryption: bool = True


@dataclass(frozen=True, slots=True)
class CodeSettings:
    """The source code of a model: where it lies, and what becomes of it with each snapshot.

    `git` is record, commit or push; `python` is the interpreter that runs the code, or None.
    """

    path: Path
    git: str = "record"
    python: Path | None = None


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """One watched folder. `targets` maps a target's name to its policies' names, in order.

    `roles` maps names of roles (`policy.schemes`) to patterns of files that have them.
    """

    name: str
    path: Path
    targets: Mapping[str, tuple[str, ...]]
    project: str = ""
    schedule: str = "*/15 * * * *"
    timezone: str = ""
    exclude: tuple[str, ...] = ()
    one_filesystem: bool = True
    scheme: str = "everything"
    roles: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    include_secrets: bool = False
    code: CodeSettings | None = None
    settle_seconds: float = 30.0
    settle_max_seconds: float = 3600.0
    keep_torn: bool = False
    file: str = ""
    line: int = 0


@dataclass(frozen=True, slots=True)
class UpkeepSettings:
    """Cron expressions of the upkeep jobs; an empty one never runs."""

    forget: str = "0 3 * * *"
    prune: str = "30 3 * * sun"
    check: str = "0 4 * * *"
    extend: str = "0 2 * * *"
    heal: bool = False
    drill: str = ""
    drill_size_bytes: int = 2_000_000_000
    read_data_percent: float = 5.0


@dataclass(frozen=True, slots=True)
class LimitsSettings:
    """What backupd may take of the box; 0 is unlimited.

    Above `pause_above_*_percent` of pressure the daemon's jobs stand back.
    """

    threads: int = 2
    upload_bytes_per_second: int = 0
    nice: int = 19
    io: str = "idle"
    pause_above_io_percent: float = 0.0
    pause_above_cpu_percent: float = 0.0


@dataclass(frozen=True, slots=True)
class NotifySettings:
    """Who is told of what: addresses in apprise's form, events, and a URL to ask for if well."""

    urls: tuple[str, ...] = ()
    urls_file: Path | None = None
    on: tuple[str, ...] = ("failure", "recovery", "stale")
    healthcheck: str = ""

    @property
    def enabled(self) -> bool:
        """Whether there is anybody to tell."""
        return bool(self.urls or self.urls_file or self.healthcheck)


@dataclass(frozen=True, slots=True)
class Settings:
    """A whole configuration that was found valid.

    `warnings` are sentences, with file and line, on what is allowed and yet unwise. `kept_text` is
    the file's text without its secrets, to be kept beside the snapshots.
    """

    source: Path
    state_dir: Path
    host: str
    key: KeySettings
    targets: Mapping[str, TargetSettings]
    policies: Mapping[str, Rules]
    models: Mapping[str, ModelSettings]
    naming: str = "{model_name}_{YYYYMMDD}_v{version}"
    layout: str = "{project_name}/{date}/{model}/"
    upkeep: UpkeepSettings = field(default_factory=UpkeepSettings)
    limits: LimitsSettings = field(default_factory=LimitsSettings)
    notify: NotifySettings = field(default_factory=NotifySettings)
    status_listen: str = ""
    warnings: tuple[str, ...] = ()
    kept_text: str = ""
