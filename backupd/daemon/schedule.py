"""When a job is due: cron schedules in their time zones, runs missed, retries, staleness.

Decisions are functions of a schedule, what the state remembers, and a time that is passed in; no
clock is read and nothing runs here. Timers (`timers`) only wake the loop, which then asks here: so
a box that slept, a clock that was set and a run missed while the box was off are all one case.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from zoneinfo import ZoneInfo

from backupd.daemon.state import JobRecord
from backupd.policy.cron import parse_cron

FIRST_RETRY_SECONDS = 60.0
LONGEST_RETRY_SECONDS = 1800.0
FULL_SCAN_SECONDS = 86_400.0
# A run that is found this much late was missed, and not merely begun a moment late.
MISFIRE_SECONDS = 60.0
# NTP steps a clock back by less; a run that lies further in the future was noted by a wrong clock.
_CLOCK_SET_BACK_SECONDS = 120.0
# No zone of the tz database sets its clocks back by more since 1970; only Antarctic stations come
# near it.
_LONGEST_SHIFT = timedelta(hours=3)


class Reason(StrEnum):
    """Why a job is due."""

    FIRST = "first run"
    TICK = "schedule"
    MISSED = "a run was missed"
    RETRY = "retry"
    CLOCK = "the clock was set back"


class Schedule:
    """A cron schedule in a time zone, as times in seconds since the epoch.

    A run whose wall-clock time a change to summer time leaves out comes that much later; one
    that a change back repeats comes twice. (APScheduler's `CronTrigger`, 3.11, leaves out the
    midnight after the change to summer time: its issue 606.)
    """

    def __init__(self, cron: str, timezone: str = "") -> None:
        """`cron` is crontab(5)'s; `timezone` an IANA name, empty for the box's own.

        Raises `ValueError` for what is neither; the configuration has refused it before.
        """
        self._cron = parse_cron(cron)
        self._zone = ZoneInfo(timezone) if timezone else None

    def next_after(self, moment: float) -> float:
        """The first run after `moment`; infinity where the calendar ends first."""
        wall = self._wall(moment)
        run = next(self._cron.after(wall), None)
        if run is not None:
            found = self._moment(run, 0)
            # As much real time as on the clock: no change lies between, or they cancel out.
            if found - math.floor(moment) == (run - wall).total_seconds():
                return found
        return self._near_a_change(moment, wall)

    def _near_a_change(self, moment: float, wall: datetime) -> float:
        best = math.inf
        latest = datetime.max
        for run in self._cron.after(wall - _LONGEST_SHIFT):
            if run > latest:
                break
            for fold in (0, 1):
                found = self._moment(run, fold)
                if moment < found < best:
                    best, latest = found, self._wall(found) + _LONGEST_SHIFT
        return best

    def _wall(self, moment: float) -> datetime:
        """The clock on the wall, to the second, without a zone."""
        return datetime.fromtimestamp(math.floor(moment), self._zone).replace(tzinfo=None, fold=0)

    def _moment(self, wall: datetime, fold: int) -> float:
        return wall.replace(tzinfo=self._zone, fold=fold).timestamp()


def why_due(
    schedule: Schedule, record: JobRecord, now: float, *, first: bool = True
) -> Reason | None:
    """Why a job is due at `now`, or None.

    `first` says whether a job that has never run is due at once (a model without a snapshot is
    unprotected) or at its next time (upkeep has nothing to do yet). However many runs were
    missed, one makes up for them.
    """
    if first and not record.last_run:
        return Reason.FIRST
    since = record.last_run or record.first_seen or now
    if since > now + _CLOCK_SET_BACK_SECONDS:
        return Reason.CLOCK
    if not record.last_run:
        return Reason.TICK if schedule.next_after(since) <= now else None
    due = schedule.next_after(record.last_run)
    if due <= now:
        return Reason.MISSED if now - due > MISFIRE_SECONDS else Reason.TICK
    if record.failures and retry_at(record) <= now:
        return Reason.RETRY
    return None


def next_due(schedule: Schedule, record: JobRecord, now: float, *, first: bool = True) -> float:
    """When a job is due next; `now` or earlier when it is."""
    since = record.last_run or record.first_seen or now
    if (first and not record.last_run) or since > now + _CLOCK_SET_BACK_SECONDS:
        return now
    due = schedule.next_after(since)
    return min(due, retry_at(record)) if record.failures else due


def retry_at(record: JobRecord) -> float:
    """When a failed job is tried again: after 1, 2, 4, ... minutes, at most 30."""
    since = max(record.last_run, record.error_time)
    return since + retry_delay_seconds(record.failures)


def retry_delay_seconds(failures: int) -> float:
    """How long to wait after so many failures in a row."""
    doublings = min(max(failures - 1, 0), 10)
    return min(FIRST_RETRY_SECONDS * 2.0**doublings, LONGEST_RETRY_SECONDS)


def stale_since(schedule: Schedule, record: JobRecord) -> float:
    """When a model becomes stale: its second scheduled run after it was last known to be whole.

    With an even schedule that is twice its interval; with one that pauses at night, the pause
    is not held against it.
    """
    good = record.last_good or record.first_seen
    return schedule.next_after(schedule.next_after(good)) + MISFIRE_SECONDS


@dataclass(frozen=True, slots=True)
class Watched:
    """What the watcher knows of a model: whether its events can be relied on, and had any."""

    reliable: bool
    changed: bool


def why_scan(watched: Watched, record: JobRecord, now: float) -> str:
    """Why a due snapshot must look at the folder; empty where nothing can have changed.

    A run that failed is never skipped. What a target lacks is copied there without a look.
    """
    if not watched.reliable:
        return "the folder is polled"
    if watched.changed:
        return "the folder changed"
    if record.failures or record.error:
        return "the last run was not whole"
    if not 0 <= now - record.last_scan < FULL_SCAN_SECONDS:
        return "the daily scan"
    return ""
