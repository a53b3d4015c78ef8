"""Which snapshots a policy keeps, and why: snapshots and rules in, decisions out."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo


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


NEWEST = "the newest is never forgotten"
NO_POLICY = "no policy thins this target"

# A day within what datetime can hold, so that every zone can show it (years 1 and 9999): a stored
# time beyond them is a broken clock's, and must not stop retention.
_LAST_TIME = 253402128000.0
_FIRST_TIME = -62135510400.0


def decide(
    candidates: Sequence[Candidate],
    rules: Sequence[Rules],
    now: float,
    timezone: tzinfo = UTC,
) -> tuple[Decision, ...]:
    """Each candidate's fate under the union of `rules`, in the order of `candidates`.

    The candidates are all snapshots of one model on one target. `now` is seconds since the
    epoch; `timezone` says where hours, days, weeks (from Monday), months and years begin.

    The newest is the one with the highest version, since versions are handed out in order and
    clocks are not. It is always kept. `keep_within` counts from the newest time there is and
    not from `now`, so that a box which was off for a month, or whose clock has run ahead, keeps
    what it had; a snapshot from the future (a clock that was wrong) counts as taken now, so
    that it cannot make the others look old. Without any rules everything is kept.

    Deciding again over what was kept keeps all of it, and one rule more never forgets more.
    """
    if not candidates:
        return ()
    if not rules:
        return tuple(Decision(candidate, (NO_POLICY,)) for candidate in candidates)
    newest_first = sorted(candidates, key=lambda candidate: -candidate.version)
    moments = {
        candidate.version: datetime.fromtimestamp(_bounded(candidate.time), timezone)
        for candidate in newest_first
    }
    latest = min(now, max(_bounded(candidate.time) for candidate in newest_first))
    reasons: dict[int, list[str]] = {candidate.version: [] for candidate in newest_first}
    for policy in rules:
        for version, reason in _kept_by(policy, newest_first, moments, latest):
            reasons[version].append(f"{policy.name}: {reason}")
    if not reasons[newest_first[0].version]:
        reasons[newest_first[0].version].append(NEWEST)
    return tuple(Decision(candidate, tuple(reasons[candidate.version])) for candidate in candidates)


def _bounded(time: float) -> float:
    if not math.isfinite(time):
        return 0.0
    return min(max(time, _FIRST_TIME), _LAST_TIME)


def _kept_by(
    policy: Rules,
    newest_first: Sequence[Candidate],
    moments: Mapping[int, datetime],
    latest: float,
) -> Iterator[tuple[int, str]]:
    """Version and reason of each snapshot that one policy keeps, rule by rule."""
    for place, candidate in enumerate(newest_first[: policy.keep_last], 1):
        yield candidate.version, f"last {place}/{policy.keep_last}"
    if policy.keep_within > timedelta(0):
        oldest = latest - policy.keep_within.total_seconds()
        reason = f"within {_tell_duration(policy.keep_within)} of the newest"
        for candidate in newest_first:
            if _bounded(candidate.time) >= oldest:
                yield candidate.version, reason
    for word, count, period in (
        ("hourly", policy.keep_hourly, _hour),
        ("daily", policy.keep_daily, _day),
        ("weekly", policy.keep_weekly, _week),
        ("monthly", policy.keep_monthly, _month),
        ("yearly", policy.keep_yearly, _year),
    ):
        seen: set[str] = set()
        for candidate in newest_first:
            if len(seen) >= count:
                break
            name = period(moments[candidate.version])
            if name not in seen:
                seen.add(name)
                yield candidate.version, f"{word} {len(seen)}/{count} ({name})"
    for candidate in newest_first:
        for label in policy.keep_labels:
            if _has_label(candidate, label):
                yield candidate.version, f"label {label}"
    if policy.keep_best is not None:
        yield from _kept_as_best(policy.keep_best, newest_first)


def _kept_as_best(rule: KeepBest, newest_first: Sequence[Candidate]) -> Iterator[tuple[int, str]]:
    """The best by one metric; of equals the newer. What is no finite number is not the best."""
    sign = -1.0 if rule.mode == "max" else 1.0
    measured = [
        (sign * value, -candidate.version, value)
        for candidate in newest_first
        if (value := candidate.metrics.get(rule.metric)) is not None and math.isfinite(value)
    ]
    for place, (_, negated, value) in enumerate(sorted(measured)[: rule.count], 1):
        yield -negated, f"best {rule.metric} {place}/{rule.count} ({value:g})"


def _has_label(candidate: Candidate, label: str) -> bool:
    """A bare `key` asks for the label whatever its value, `key=value` for that value."""
    key, equals, value = label.partition("=")
    if label in candidate.labels:
        return True
    return bool(equals) and candidate.labels.get(key) == value


def _hour(moment: datetime) -> str:
    # The offset keeps apart the two hours of one name when summer time ends.
    offset = moment.strftime("%z")
    return f"{_day(moment)} {moment.hour:02d}h" + ("" if offset == "+0000" else offset)


def _day(moment: datetime) -> str:
    return f"{moment.year:04d}-{moment.month:02d}-{moment.day:02d}"


def _week(moment: datetime) -> str:
    year, week, _ = moment.isocalendar()
    return f"{year:04d}-W{week:02d}"


def _month(moment: datetime) -> str:
    return f"{moment.year:04d}-{moment.month:02d}"


def _year(moment: datetime) -> str:
    return f"{moment.year:04d}"


def _tell_duration(duration: timedelta) -> str:
    hours, rest = divmod(round(duration.total_seconds()), 3600)
    if rest:
        return str(duration)
    return f"{hours // 24}d" if hours % 24 == 0 else f"{hours}h"
