"""Cron expressions: what they say, whether they ever fire, and when next.

The grammar is crontab(5)'s: five fields, names, ranges, steps, lists and the `@daily` words;
Sunday is 0 or 7. No clock is read here, and no time zone: times are wall-clock times.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

_WORDS = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_MEND = (
    'write minute, hour, day of month, month and weekday, such as "*/15 * * * *", or a word'
    " such as @daily"
)
_FIELDS = (
    ("minute", 0, 59, ()),
    ("hour", 0, 23, ()),
    ("day of month", 1, 31, ()),
    ("month", 1, 12, _MONTHS),
    ("weekday", 0, 7, _WEEKDAYS),
)
# February has its 29th in leap years, so a schedule for it does fire.
_LONGEST = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)


@dataclass(frozen=True, slots=True)
class Cron:
    """One schedule as the sets of values it fires at; `weekdays` count from Sunday, 0.

    `either` is crontab(5)'s rule: where both day fields are restricted, a day that fits one
    of them is enough.
    """

    text: str
    minutes: frozenset[int]
    hours: frozenset[int]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]
    either: bool

    def on(self, day: datetime) -> bool:
        """Whether it fires on the date of `day`."""
        if day.month not in self.months:
            return False
        of_month = day.day in self.days
        of_week = (day.weekday() + 1) % 7 in self.weekdays
        return of_month or of_week if self.either else of_month and of_week

    def after(self, moment: datetime) -> Iterator[datetime]:
        """The wall-clock times after `moment` at which it fires, soonest first, without end.

        `moment` carries no time zone. Ends only where the calendar does.
        """
        minutes, hours = sorted(self.minutes), sorted(self.hours)
        day = moment.replace(hour=0, minute=0, second=0, microsecond=0)
        while True:
            if self.on(day):
                for hour in hours:
                    for minute in minutes:
                        tick = day.replace(hour=hour, minute=minute)
                        if tick > moment:
                            yield tick
            try:
                day += timedelta(days=1)
            except OverflowError:
                return


def parse_cron(text: str) -> Cron:
    """Read a cron expression.

    Raises `ValueError("what is wrong; the mend")` where a field is wrong, or none ever fires.
    """
    fields = _WORDS.get(text.strip().lower(), text).split()
    if len(fields) != len(_FIELDS):
        if text.strip().startswith("@"):
            raise ValueError(f"is no word of cron; write one of {', '.join(_WORDS)}")
        raise ValueError(f"has {len(fields)} fields, and a cron schedule has 5; {_MEND}")
    minutes, hours, days, months, weekdays = (
        _parse_field(field, *definition) for field, definition in zip(fields, _FIELDS, strict=True)
    )
    restricted = [not field.startswith("*") for field in (fields[2], fields[4])]
    cron = Cron(
        text=text,
        minutes=minutes,
        hours=hours,
        days=days,
        months=months,
        weekdays=frozenset(number % 7 for number in weekdays),
        either=all(restricted),
    )
    if not cron.either and not any(min(days) <= _LONGEST[month - 1] for month in months):
        names = " or ".join(_MONTHS[month - 1].capitalize() for month in sorted(months))
        raise ValueError(
            f"never fires: there is no day {min(days)} in {names}; name a day that the month has"
        )
    return cron


def _parse_field(
    text: str, name: str, lowest: int, highest: int, words: tuple[str, ...]
) -> frozenset[int]:
    values: set[int] = set()
    for part in text.split(","):
        span, slash, step_text = part.partition("/")
        step = 1
        if slash:
            plain = step_text.isascii() and step_text.isdigit() and len(step_text) < 10
            if not (plain and 0 < int(step_text) < 1000):
                raise ValueError(
                    f"has the step {step_text!r} in its {name}, which is none; {_MEND}"
                )
            step = int(step_text)
        if span == "*":
            first, last = lowest, highest
        else:
            first_text, dash, last_text = span.partition("-")
            first = _parse_value(first_text, name, lowest, highest, words)
            last = _parse_value(last_text, name, lowest, highest, words) if dash else first
            if slash and not dash:
                last = highest
            if last == 0 and dash and name == "weekday":
                last = 7
            if last < first:
                raise ValueError(f"has the {name} range {span!r}, which runs backwards; {_MEND}")
        values.update(range(first, last + 1, step))
    return frozenset(values)


def _parse_value(text: str, name: str, lowest: int, highest: int, words: tuple[str, ...]) -> int:
    lowered = text.lower()
    if lowered in words:
        return words.index(lowered) + lowest
    if not (text.isascii() and text.isdigit()) or len(text) > 4:
        raise ValueError(f"has the {name} {text!r}, which is none; {_MEND}")
    value = int(text)
    if not lowest <= value <= highest:
        raise ValueError(
            f"has the {name} {value}, which is not from {lowest} to {highest}; {_MEND}"
        )
    return value
