"""From a configuration file to `Settings`, or to everything that is wrong with it.

Nothing is written, and beside the file itself only the metadata of the paths in it is read.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from pydantic import ValidationError

from backupd.config import schema, schema_models, schema_targets
from backupd.config.consistency import find_inconsistencies, find_warnings
from backupd.config.document import MAX_BYTES, Document, read_document
from backupd.config.keeping import keepable
from backupd.config.problems import Problem, empty_values, schema_problems
from backupd.config.settings import (
    CodeSettings,
    KeySettings,
    LimitsSettings,
    LocalTarget,
    ModelSettings,
    NasTarget,
    NotifySettings,
    Prices,
    S3Target,
    Settings,
    TargetSettings,
    UpkeepSettings,
)
from backupd.config.values import check_name
from backupd.errors import ConfigError
from backupd.policy.retention import KeepBest, Rules

# The names under which the generated drop-in hands the secrets over (`LoadCredential=`).
KEY_CREDENTIAL = "key"
PASSPHRASE_CREDENTIAL = "passphrase"  # noqa: S105 - the name of a file, and no passphrase
NOTIFY_CREDENTIAL = "notify"


def s3_credential(target: str) -> str:
    """The name of the credential that holds a target's `credentials_file`."""
    return f"s3-{target}"


def s3_key_credential(target: str) -> str:
    """The name of the credential that holds a target's `sse_customer_key_file`."""
    return f"s3-key-{target}"


def load_config(path: Path, environment: Mapping[str, str]) -> Settings:
    """The settings in the file at `path`.

    `environment` gives HOME (for `~`), XDG_STATE_HOME and STATE_DIRECTORY (for the default of
    `state_dir`) and CREDENTIALS_DIRECTORY (systemd's copies of the key files, which are used
    where they exist). Raises `ConfigError` for the problem that comes first in the file.
    """
    settings, problems = check_config(path, environment)
    if settings is None:
        raise problems[0].error()
    return settings


def check_config(
    path: Path, environment: Mapping[str, str]
) -> tuple[Settings | None, tuple[Problem, ...]]:
    """The settings in the file at `path`, or, in its order, all that is wrong with it.

    Raises `ConfigError` where the file cannot be read or is not YAML, as nothing more can be
    said of it then.
    """
    return check_text(_read(path), path, environment)


def check_text(
    data: bytes, path: Path, environment: Mapping[str, str]
) -> tuple[Settings | None, tuple[Problem, ...]]:
    """As `check_config`, for the bytes `data` of the file at `path`."""
    document = read_document(data, str(path))
    problems = empty_values(document)
    if not problems:
        try:
            configuration = schema.Configuration.model_validate(document.root)
        except ValidationError as error:
            problems = schema_problems(document, error)
        else:
            maker = _Maker(document, environment)
            settings = maker.settings(configuration, path)
            problems = maker.problems or find_inconsistencies(document, settings)
            if not problems:
                warnings = find_warnings(document, settings)
                return replace(settings, warnings=warnings, kept_text=keepable(data)), ()
    # Unknown keys first on a line of several problems: a missing key is often one misspelt.
    problems.sort(key=lambda problem: (problem.line, "is missing" in problem.message))
    return None, tuple(problems)


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        problem, hint = "there is no such file", "write one with 'backupd quickstart DIR'"
    except IsADirectoryError:
        problem, hint = "it is a folder", "name the file in it"
    except PermissionError:
        problem, hint = "it may not be read", "run as its owner, or as root"
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        problem, hint = f"it cannot be read ({reason})", "name a file that can be read"
    raise ConfigError(problem, file=str(path), hint=hint) from None


class _Maker:
    """Turns the schema's sections into values; what the environment lacks becomes a problem."""

    def __init__(self, document: Document, environment: Mapping[str, str]) -> None:
        self.document = document
        self.environment = environment
        self.problems: list[Problem] = []

    def settings(self, configuration: schema.Configuration, source: Path) -> Settings:
        return Settings(
            source=source,
            state_dir=self.state_dir(configuration.state_dir),
            host=configuration.host or self.host(),
            key=self.key(configuration.key),
            targets={
                name: self.target(name, target) for name, target in configuration.targets.items()
            },
            policies={
                name: _rules(name, policy) for name, policy in configuration.policies.items()
            },
            models={name: self.model(name, model) for name, model in configuration.models.items()},
            naming=configuration.naming,
            layout=configuration.layout,
            upkeep=UpkeepSettings(
                forget=configuration.upkeep.forget,
                prune=configuration.upkeep.prune,
                check=configuration.upkeep.check,
                extend=configuration.upkeep.extend,
                read_data_percent=configuration.upkeep.read_data,
                heal=configuration.upkeep.heal,
                drill=configuration.upkeep.drill,
                drill_size_bytes=configuration.upkeep.drill_size,
            ),
            limits=LimitsSettings(
                threads=configuration.limits.threads,
                upload_bytes_per_second=configuration.limits.upload or 0,
                nice=configuration.limits.nice,
                io=configuration.limits.io,
                pause_above_io_percent=configuration.limits.pause_above.io_pressure or 0.0,
                pause_above_cpu_percent=configuration.limits.pause_above.cpu_pressure or 0.0,
            ),
            notify=NotifySettings(
                urls=tuple(configuration.notify.urls),
                urls_file=self.optional_path(
                    configuration.notify.urls_file,
                    "notify",
                    "urls_file",
                    credential=NOTIFY_CREDENTIAL,
                ),
                on=tuple(configuration.notify.on),
                healthcheck=configuration.notify.healthcheck,
            ),
            status_listen=configuration.status.listen,
        )

    def problem(self, where: tuple[str | int, ...], message: str, hint: str) -> None:
        self.problems.append(Problem(self.document.file, self.document.line(where), message, hint))

    def path(self, text: str, *where: str) -> Path:
        if not text.startswith("~"):
            return Path(os.path.normpath(text))
        home = self.environment.get("HOME", "")
        if not home.startswith("/"):
            self.problem(
                where,
                f"{'.'.join(where)}: {text!r} begins with ~, and HOME is not set",
                "write the full path, or set HOME",
            )
            home = "/"
        return Path(os.path.normpath(home + text[1:]))

    def optional_path(self, text: str | None, *where: str, credential: str = "") -> Path | None:
        """A path, or systemd's copy of it: the sandbox may hide the file itself."""
        if text is None:
            return None
        folder = self.environment.get("CREDENTIALS_DIRECTORY", "")
        if credential and folder.startswith("/"):
            copy = Path(folder, credential)
            if os.path.isfile(copy):
                return copy
        return self.path(text, *where)

    def state_dir(self, text: str | None) -> Path:
        if text is not None:
            return self.path(text, "state_dir")
        given = self.environment.get("STATE_DIRECTORY", "").split(":")[0]
        if given.startswith("/"):
            return Path(given)
        if os.geteuid() == 0:
            return Path("/var/lib/backupd")
        base = self.environment.get("XDG_STATE_HOME", "")
        return self.path((base if base.startswith("/") else "~/.local/state") + "/backupd")

    def host(self) -> str:
        name = os.uname().nodename
        try:
            return check_name(name)
        except ValueError:
            self.problem(
                (),
                f"the host name {name!r} of this machine cannot name its snapshots",
                "write host: with a name of letters, digits, '.', '_' and '-'",
            )
            return "host"

    def key(self, section: schema.KeySection) -> KeySettings:
        return KeySettings(
            file=self.optional_path(section.file, "key", "file", credential=KEY_CREDENTIAL),
            passphrase_file=self.optional_path(
                section.passphrase_file,
                "key",
                "passphrase_file",
                credential=PASSPHRASE_CREDENTIAL,
            ),
            passphrase_command=section.passphrase_command or "",
            encryption=section.encryption is None,
        )

    def target(self, name: str, section: schema_targets.TargetKind) -> TargetSettings:
        where = ("targets", name)
        if isinstance(section, schema_targets.LocalTargetSection):
            return LocalTarget(name, self.path(section.path, *where, "path"))
        if isinstance(section, schema_targets.NasTargetSection):
            path = self.path(section.path, *where, "path")
            return NasTarget(
                name,
                path,
                section.require_mount,
                section.read_back == "whole",
                section.give_up_after.total_seconds(),
                section.upload or 0,
            )
        return S3Target(
            name=name,
            bucket=section.bucket,
            prefix=section.prefix,
            endpoint_url=section.endpoint_url,
            region=section.region or "",
            profile=section.profile or "",
            credentials_file=self.optional_path(
                section.credentials_file,
                *where,
                "credentials_file",
                credential=s3_credential(name),
            ),
            storage_class=section.storage_class,
            metadata_storage_class=section.metadata_storage_class,
            object_lock_mode=section.object_lock.mode if section.object_lock else "",
            object_lock_days=section.object_lock.days if section.object_lock else 0,
            append_only=section.append_only,
            as_of=section.as_of or 0.0,
            upload_bytes_per_second=section.upload or 0,
            path_style=section.path_style,
            ca_bundle=self.optional_path(section.ca_bundle, *where, "ca_bundle"),
            proxy=section.proxy,
            sse=section.sse or "",
            sse_kms_key=section.sse_kms_key or "",
            sse_customer_key_file=self.optional_path(
                section.sse_customer_key_file,
                *where,
                "sse_customer_key_file",
                credential=s3_key_credential(name),
            ),
            prices=_prices(section.prices),
            checksums=section.checksums,
            connect_timeout_seconds=section.connect_timeout.total_seconds(),
            read_timeout_seconds=section.read_timeout.total_seconds(),
        )

    def model(self, name: str, section: schema_models.ModelSection) -> ModelSettings:
        return ModelSettings(
            name=name,
            path=self.path(section.path, "models", name, "path"),
            targets={target: tuple(names) for target, names in section.targets.items()},
            project=section.project or "",
            schedule=section.schedule,
            timezone=section.timezone or "",
            exclude=tuple(section.exclude),
            one_filesystem=section.one_filesystem,
            scheme=section.scheme,
            roles={role: tuple(patterns) for role, patterns in section.roles if patterns},
            include_secrets=section.include_secrets,
            code=self.code(name, section.code),
            settle_seconds=section.settle.total_seconds(),
            settle_max_seconds=section.settle_max.total_seconds(),
            keep_torn=section.keep_torn,
            file=self.document.file,
            line=self.document.line(("models", name)),
        )

    def code(self, name: str, section: schema_models.CodeSection | None) -> CodeSettings | None:
        if section is None:
            return None
        where = ("models", name, "code")
        python = None
        if section.python is not None:
            python = self.path(section.python, *where, "python")
        return CodeSettings(self.path(section.path, *where, "path"), section.git, python)


def _prices(section: schema_targets.PricesSection | None) -> Prices | None:
    if section is None:
        return None
    return Prices(section.put, section.get, section.list, section.currency)


def _rules(name: str, section: schema_models.PolicySection) -> Rules:
    best = section.keep_best
    return Rules(
        name=name,
        keep_last=section.keep_last or 0,
        keep_within=section.keep_within or timedelta(0),
        keep_hourly=section.keep_hourly or 0,
        keep_daily=section.keep_daily or 0,
        keep_weekly=section.keep_weekly or 0,
        keep_monthly=section.keep_monthly or 0,
        keep_yearly=section.keep_yearly or 0,
        keep_labels=tuple(section.keep_labels or ()),
        keep_best=KeepBest(best.metric, best.mode, best.count) if best else None,
    )
