"""The keys of `upkeep`, `limits`, `notify` and `status`: the daemon beside its snapshots."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from backupd.config.section import Section
from backupd.config.values import Endpoint, FullPath, Listen, Percent, Rate, Size, Text, UpkeepCron


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
    extend: UpkeepCron = Field(
        "0 2 * * *",
        description="When the Object Lock of what snapshots need is extended, on targets that have"
        " `object_lock`.",
        examples=['"0 2 * * *"'],
    )
    read_data: Percent = Field(
        5.0,
        description="How much of the stored data each check reads back.",
        examples=["5%"],
    )
    heal: bool = Field(
        False,
        description="Whether a check that finds damage mends it at once, as `backupd repair`"
        " does; what it did is in the log and in `backupd status`.",
        examples=["true"],
    )
    drill: UpkeepCron = Field(
        "0 5 * * sat",
        description="When a snapshot is restored for practice and compared, as `backupd drill`"
        " does.",
        examples=['"0 5 * * sat"'],
    )
    drill_size: Size = Field(
        2_000_000_000,
        description="The most that a drill restores; of a larger snapshot other files each time.",
        examples=["2GB"],
    )


class PauseSection(Section):
    """When backupd stands back: above so much pressure on the box, as the kernel measures it."""

    io_pressure: Percent | None = Field(
        None,
        description="How much of the last ten seconds something on the box may stand waiting for a"
        " disk; above it the daemon's jobs pause, for 5 minutes at a stretch at most.",
        examples=["30%"],
    )
    cpu_pressure: Percent | None = Field(
        None,
        description="The same for waiting for a CPU.",
        examples=["80%"],
    )


class LimitsSection(Section):
    """What backupd may take of the box."""

    threads: int = Field(
        2, ge=1, le=64, description="Threads that read, hash, compress and seal.", examples=["2"]
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
    pause_above: PauseSection = Field(
        default_factory=lambda: PauseSection.model_validate({}),
        description="When the daemon's jobs stand back.",
        examples=["{io_pressure: 30%, cpu_pressure: 80%}"],
    )


class NotifySection(Section):
    """Who is told when something goes wrong, and when it is well again."""

    urls: list[Text] = Field(
        [],
        description="Addresses in the form of apprise: mail, chats, web hooks.",
        examples=['["mailto://user:password@example.org"]'],
    )
    urls_file: FullPath | None = Field(
        None,
        description="A file with more of them, one a line, for those that hold passwords.",
        examples=["/etc/backupd/notify"],
    )
    on: list[Literal["failure", "recovery", "stale"]] = Field(
        ["failure", "recovery", "stale"],
        description="What is told: a model or an upkeep job failed, is well again, or a model's"
        " newest snapshot is older than its schedule allows. What lasts is told again each day.",
        examples=["[failure, stale]"],
    )
    healthcheck: Endpoint = Field(
        "",
        description="An address that is asked for every 5 minutes while all is well, so that a"
        " dead box is noticed by the service that waits for it.",
        examples=["https://hc-ping.com/uuid"],
    )


class StatusSection(Section):
    """The status page."""

    listen: Listen = Field(
        "",
        description="Where the page is served, as HOST:PORT; without it there is none. It shows"
        " names, paths and times to whoever can reach the port, and changes nothing.",
        examples=["127.0.0.1:9731"],
    )
