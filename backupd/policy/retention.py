"""Which snapshots a policy keeps, and why: snapshots and rules in, decisions out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True, slots=True)
class KeepBest:
    """Keep the `count` snapshots whose `metric` is best; `mode` is `min` or `max`."""

    metric: str
    mode: str
    count: int


@dataclass(frozen=True, slots=True)
class Rules:
    """One policy's rules; a count of 0 and an empty tuple mean that the rule is not there."""

    name: str
    keep_last: int = 0
    keep_within: timedelta = timedelta(0)
    keep_hourly: int = 0
    keep_daily: int = 0
    keep_weekly: int = 0
    keep_monthly: int = 0
    keep_yearly: int = 0
    keep_labels: tuple[str, ...] = ()
    keep_best: KeepBest | None = None


@dataclass(frozen=True, slots=True)
class Candidate:
    """What retention needs to know of one snapshot; `time` in seconds since the epoch, UTC."""

    version: int
    time: float
    labels: Mapping[str, str]
    metrics: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Decision:
    """One snapshot's fate: kept when there is a reason, forgotten when there is none."""

    candidate: Candidate
    reasons: tuple[str, ...]

    @property
    def keep(self) -> bool:
        """Whether any rule keeps it."""
        return bool(self.reasons)
