"""The keys of `policies` and `models`: what is kept, and of which folders."""

from __future__ import annotations

from datetime import timedelta
from typing import Literal

from pydantic import Field, model_validator

from backupd.config.section import Section
from backupd.config.values import (
    Count,
    CronText,
    Duration,
    FullPath,
    Name,
    Pattern,
    Policies,
    Text,
    TimeZone,
)


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


class CodeSection(Section):
    """The source code that makes a model."""

    path: FullPath = Field(
        description="The folder of the code, such as the work tree of a git repository.",
        examples=["/home/ml/chat"],
    )
    git: Literal["record", "commit", "push"] = Field(
        "record",
        description="`record` keeps the commit, the changes to it and untracked files with each"
        " snapshot and writes nothing to the repository. `commit` also makes a commit of the"
        " code on the branch `backupd/MODEL`, and `push` pushes that branch.",
        examples=["record"],
    )
    python: FullPath | None = Field(
        None,
        description="The Python interpreter that runs the code; it is asked for its packages."
        " Without it those of a `.venv` or `venv` in the code's folder are read.",
        examples=["/home/ml/chat/.venv/bin/python"],
    )


class RolesSection(Section):
    """Patterns of files that have a role; the first role with one that fits counts."""

    weights: list[Pattern] = Field(
        [], description="The numbers that were learnt.", examples=['["ema/*.dat"]']
    )
    training: list[Pattern] = Field(
        [],
        description="What only going on with the training needs.",
        examples=['["*.adam"]'],
    )
    graph: list[Pattern] = Field([], description="The model's structure.", examples=['["*.graph"]'])
    tokenizer: list[Pattern] = Field(
        [], description="How inputs become numbers.", examples=['["bpe/"]']
    )
    configuration: list[Pattern] = Field(
        [],
        description="What the model and its training were set to.",
        examples=['["flags.json"]'],
    )
    code: list[Pattern] = Field(
        [], description="Source code, and what it needs installed.", examples=['["src/"]']
    )
    other: list[Pattern] = Field(
        [],
        description="What no scheme but `everything` keeps.",
        examples=['["samples/"]'],
    )


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
    scheme: Literal["model", "params", "model+params", "code+params", "everything"] = Field(
        "everything",
        description="Which part of the folder is kept. `model`: graph, tokenizer and"
        " configuration; `params`: weights; `model+params`: both; `code+params`: weights,"
        " configuration and source code. docs/versions.md tells which file is which.",
        examples=["model+params"],
    )
    roles: RolesSection = Field(
        default_factory=lambda: RolesSection.model_validate({}),
        description="What files are, for `scheme`, where their names and tensors do not tell.",
        examples=['{weights: ["ema/*.dat"]}'],
    )
    include_secrets: bool = Field(
        False,
        description="Keep files that hold secrets, such as `.env`, private keys and tokens in"
        " configurations; without it they are left out, and that is said.",
        examples=["false"],
    )
    code: CodeSection | None = Field(
        None,
        description="The source code of the model, which is recorded with each snapshot.",
        examples=["{path: /home/ml/chat, git: record}"],
    )
    settle: Duration = Field(
        timedelta(seconds=30),
        description="How long the checkpoint files of the folder must have been still before a"
        " scheduled snapshot reads them. Logs and other files hold nothing up.",
        examples=["30s"],
    )
    settle_max: Duration = Field(
        timedelta(hours=1),
        description="After so long a wait what is whole is taken, and what is not is named.",
        examples=["1h"],
    )
    keep_torn: bool = Field(
        False,
        description="Store checkpoint files that are not whole as they are, for those which only"
        " look torn to backupd. They are waited for and named all the same.",
        examples=["true"],
    )
    targets: dict[str, Policies] = Field(
        description="Where the snapshots go: each target with the policy, or the list of"
        " policies, that thins them there.",
        examples=["{disk: working, s3: archive}"],
    )

    @model_validator(mode="after")
    def _settles(self) -> ModelSection:
        if self.settle_max < self.settle:
            raise ValueError(
                "has a settle_max that is shorter than settle; raise settle_max, or lower settle"
            )
        return self
