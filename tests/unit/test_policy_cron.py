"""Cron expressions, against crontab(5) and against what APScheduler makes of their fields."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import islice

import pytest
from apscheduler.triggers.combining import OrTrigger
from apscheduler.triggers.cron import CronTrigger

from backupd.policy.cron import Cron, parse_cron

WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
START = datetime(2026, 11, 23, 19, 31)  # a Monday


def trigger_fields(cron: Cron) -> tuple[dict[str, str], ...]:
    """What APScheduler's `CronTrigger` takes: one set of fields, or two of which either fires.

    Its own `from_crontab` counts weekdays from Monday and asks both day fields to fit.
    """

    def joined(values: frozenset[int]) -> str:
        return ",".join(map(str, sorted(values)))

    common = {
        "minute": joined(cron.minutes),
        "hour": joined(cron.hours),
        "month": joined(cron.months),
    }
    days = {"day": joined(cron.days)}
    weekdays = {"day_of_week": ",".join(WEEKDAYS[number] for number in sorted(cron.weekdays))}
    if cron.either:
        return ({**common, **days}, {**common, **weekdays})
    return ({**common, **days, **weekdays},)


def ticks(text: str, count: int) -> list[str]:
    return [f"{tick:%a %m-%d %H:%M}" for tick in islice(parse_cron(text).after(START), count)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("*/15 * * * *", ["Mon 11-23 19:45", "Mon 11-23 20:00", "Mon 11-23 20:15"]),
        ("30 3 * * sun", ["Sun 11-29 03:30", "Sun 12-06 03:30", "Sun 12-13 03:30"]),
        ("30 3 * * 0", ["Sun 11-29 03:30", "Sun 12-06 03:30", "Sun 12-13 03:30"]),
        ("30 3 * * 7", ["Sun 11-29 03:30", "Sun 12-06 03:30", "Sun 12-13 03:30"]),
        ("0 0 * * 1-3", ["Tue 11-24 00:00", "Wed 11-25 00:00", "Mon 11-30 00:00"]),
        ("0 0 * * fri-sun", ["Fri 11-27 00:00", "Sat 11-28 00:00", "Sun 11-29 00:00"]),
        ("0 0 29 FEB *", ["Tue 02-29 00:00", "Sun 02-29 00:00", "Fri 02-29 00:00"]),
        ("5/20 8 * * *", ["Tue 11-24 08:05", "Tue 11-24 08:25", "Tue 11-24 08:45"]),
        ("@daily", ["Tue 11-24 00:00", "Wed 11-25 00:00", "Thu 11-26 00:00"]),
        # crontab(5): with both day fields restricted, one of them is enough.
        ("0 0 25 * fri", ["Wed 11-25 00:00", "Fri 11-27 00:00", "Fri 12-04 00:00"]),
    ],
)
def test_a_schedule_fires_when_a_crontab_would(text: str, expected: list[str]) -> None:
    assert ticks(text, 3) == expected


@pytest.mark.parametrize(
    "text",
    ["*/15 * * * *", "30 3 * * sun", "0 0 13 * 5", "7 */6 * 2,11 1-5", "59 23 31 * *", "@weekly",
     "0 12 * jan-mar 0,6", "*/7 3-5 */10 * *"],
)  # fmt: skip
def test_apscheduler_fires_at_the_same_times(text: str) -> None:
    cron = parse_cron(text)
    trigger = OrTrigger([CronTrigger(timezone=UTC, **each) for each in trigger_fields(cron)])
    moment = START.replace(tzinfo=UTC)
    for expected in islice(cron.after(START), 30):
        fired = trigger.get_next_fire_time(None, moment + timedelta(microseconds=1))
        assert fired == expected.replace(tzinfo=UTC)
        moment = fired


@pytest.mark.parametrize(
    "text",
    ["", "* * * *", "* * * * * *", "60 * * * *", "* 24 * * *", "* * 0 * *", "* * 32 * *",
     "* * * 0 *", "* * * 13 *", "* * * * 8", "*/0 * * * *", "1-x * * * *", "5-1 * * * *",
     "a * * * *", "1,,2 * * * *", "-1 * * * *", "@reboot", "0 0 30 2 *", "0 0 31 4,6,9,11 *",
     "² * * * *", "*/² * * * *", "* * * mon *", "99999999999999999999 * * * *"],
)  # fmt: skip
def test_what_is_no_schedule_or_never_fires_is_refused_with_the_mend(text: str) -> None:
    with pytest.raises(ValueError, match="; "):
        parse_cron(text)


def test_a_step_of_thousands_of_digits_is_no_step() -> None:
    with pytest.raises(ValueError, match="has the step"):
        parse_cron("*/000000001" + "0" * 5000 + " * * * *")


def test_a_day_that_never_comes_does_not_matter_beside_a_weekday() -> None:
    assert ticks("0 0 30 2 mon", 1) == ["Mon 02-01 00:00"]
