"""The keys of `upkeep` and `limits`: what else the daemon does, and what it may take."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from backupd.config.section import Section
from backupd.config.values import Percent, Rate, UpkeepCron


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
