"""APScheduler as the daemon's clockwork: it wakes the loop at each run of each schedule.

What a wake-up means (a run, one that was missed, nothing at all) is decided in `schedule`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.base import BaseTrigger

from backupd.daemon.schedule import Schedule


class ScheduleTrigger(BaseTrigger):  # type: ignore[misc]  # APScheduler 3 has no types
    """A `Schedule` as APScheduler asks for it.

    Not its own `CronTrigger`, as that leaves out the midnight after the change to summer time
    (3.11, issue 606) and counts weekdays otherwise than crontab(5).
    """

    def __init__(self, schedule: Schedule) -> None:
        self._schedule = schedule

    def get_next_fire_time(
        self, previous_fire_time: datetime | None, now: datetime
    ) -> datetime | None:
        """The first run after the previous one, or after `now`; None where the calendar ends."""
        found = self._schedule.next_after((previous_fire_time or now).timestamp())
        try:
            return datetime.fromtimestamp(found, UTC)
        except (OverflowError, ValueError):
            return None


class Timers:
    """One timer a schedule; `wake` is called from APScheduler's thread when one runs out.

    Runs that were missed while the box slept come as one, however late.
    """

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._scheduler = BackgroundScheduler(
            timezone=UTC,
            daemon=True,
            job_defaults={"coalesce": True, "misfire_grace_time": None, "max_instances": 1},
        )
        self._keys: frozenset[str] = frozenset()

    def apply(self, schedules: Mapping[str, Schedule]) -> None:
        """Have a timer for each of these schedules and for no other."""
        for key in self._keys - schedules.keys():
            self._scheduler.remove_job(key)
        for key, schedule in schedules.items():
            self._scheduler.add_job(
                self._wake, ScheduleTrigger(schedule), id=key, name=key, replace_existing=True
            )
        self._keys = frozenset(schedules)
        if not self._scheduler.running:
            self._scheduler.start()

    def next_run(self, key: str) -> float | None:
        """When a timer runs out next (seconds since the epoch), or None."""
        job = self._scheduler.get_job(key)
        when = job.next_run_time if job is not None else None
        return when.timestamp() if when is not None else None

    def close(self) -> None:
        """End the thread."""
        if self._scheduler.running:
            self._scheduler.shutdown(wait=False)
