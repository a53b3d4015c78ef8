from __future__ import annotations

import threading
import time
from datetime import datetime
from zoneinfo import ZoneInfo

from backupd.daemon.schedule import Schedule
from backupd.daemon.timers import ScheduleTrigger, Timers
from tests.unit.daemon_fakes import eventually


class EverySecond(Schedule):
    """A schedule with runs near enough for a test."""

    def __init__(self) -> None:
        super().__init__("* * * * *")

    def next_after(self, moment: float) -> float:
        return float(int(moment) + 1)


def test_a_trigger_gives_the_runs_of_its_schedule_in_its_zone() -> None:
    trigger = ScheduleTrigger(Schedule("0 0 * * *", "Europe/Berlin"))
    now = datetime(2026, 3, 28, 12, tzinfo=ZoneInfo("Europe/Berlin"))
    found, previous = [], None
    for _ in range(3):
        previous = trigger.get_next_fire_time(previous, now)
        assert previous is not None
        found.append(previous.astimezone(ZoneInfo("Europe/Berlin")).isoformat())
    # APScheduler's own CronTrigger leaves the 30th out.
    assert found == [
        "2026-03-29T00:00:00+01:00",
        "2026-03-30T00:00:00+02:00",
        "2026-03-31T00:00:00+02:00",
    ]


def test_the_loop_is_woken_at_each_run_and_not_after_a_schedule_is_gone() -> None:
    woken = threading.Semaphore(0)
    timers = Timers(woken.release)
    try:
        timers.apply({"a": EverySecond(), "b": Schedule("0 0 1 1 *")})
        assert woken.acquire(timeout=60) and woken.acquire(timeout=60)
        # One of two, as the year may end between the looks.
        looks = [Schedule("0 0 1 1 *").next_after(time.time())]
        found = timers.next_run("b")
        assert found in (*looks, Schedule("0 0 1 1 *").next_after(time.time()))
        timers.apply({"b": Schedule("0 0 1 1 *")})
        assert timers.next_run("a") is None
        # A run that had just begun may still wake it; then a second passes without one.
        eventually(lambda: not woken.acquire(timeout=1.5))
    finally:
        timers.close()
