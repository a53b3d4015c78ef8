"""The keys of a configuration: their types, defaults, and the words that describe them.

The reference in `docs/configuration.md` and the JSON schema are made from what is said here.
What one value alone can tell is refused here and in `values`; what takes two values to see is
`consistency`'s.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from backupd.config.schema_daemon import (
    LimitsSection,
    NotifySection,
    StatusSection,
    UpkeepSection,
)
from backupd.config.schema_models import ModelSection, PolicySection
from backupd.config.schema_targets import TargetSection
from backupd.config.section import Section
from backupd.config.values import FullPath, Layout, Name, Naming, Text
from backupd.policy.naming import DEFAULT_LAYOUT, DEFAULT_NAMING


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
        " `{version}`, `{project_name}`, `{host}`, `{date}`, `{YYYYMMDD}`, `{step}`, and"
        " `{label.K}` for the label K.",
        examples=[f'"{DEFAULT_NAMING}"'],
    )
    layout: Layout = Field(
        DEFAULT_LAYOUT,
        description="Where `export` puts a snapshot below a folder. One that ends in `/` is a"
        " folder, in which the snapshot has its name; words are those of `naming`, as often as one"
        " likes, and `{ext}` for the ending.",
        examples=[f'"{DEFAULT_LAYOUT}"'],
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
    notify: NotifySection = Field(
        default_factory=lambda: NotifySection.model_validate({}),
        description="Who is told when something goes wrong.",
        examples=["{urls_file: /etc/backupd/notify}"],
    )
    status: StatusSection = Field(
        default_factory=lambda: StatusSection.model_validate({}),
        description="The status page.",
        examples=["{listen: 127.0.0.1:9731}"],
    )
