"""How a command line names a snapshot, read into values.

Which of the readings is meant is for those to say who can look into the repositories.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from enum import Enum

from backupd.errors import UsageError
from backupd.policy.naming import NameWords, Template

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_VERSION = re.compile(r"v([1-9][0-9]{0,17})")
_ID = re.compile(r"[0-9a-f]{4,64}")
_DATE = re.compile(
    r"(\d{4})-?(\d{2})-?(\d{2})(?:[T ](\d{2}):(\d{2})(?::(\d{2}))?(Z|[+-]\d{2}:\d{2})?)?"
)
_HINT = (
    "name it MODEL@v3, MODEL@latest, MODEL@best, MODEL@2026-11-23, MODEL@LABEL or by the"
    " beginning of its id"
)


class Kind(Enum):
    """What a reading asks for."""

    VERSION = "version"
    LATEST = "latest"
    BEST = "best"
    DATE = "date"
    LABEL = "label"
    ID = "id"


@dataclass(frozen=True, slots=True)
class SnapshotSpec:
    """One reading of how a snapshot was named; `text` is what was typed.

    `words` are what a rendered name says, None where it was named in another way.
    `host` is empty where none was named: this host's, then the only one of that name.
    For `DATE`, `before` is the moment (seconds since the epoch) that the snapshot must be older
    than. For `LABEL`, `value` is None where only the key was given. For `BEST`, `metric` is
    empty where none was named: the one of the model's `keep_best`.
    """

    text: str
    kind: Kind
    model: str = ""
    host: str = ""
    version: int = 0
    before: float = 0.0
    label: str = ""
    value: str | None = None
    metric: str = ""
    id_prefix: str = ""
    words: NameWords | None = None


def parse_spec(
    text: str, *, templates: Sequence[Template] = (), timezone: tzinfo = UTC
) -> tuple[SnapshotSpec, ...]:
    """The readings of `text`, in the order in which they are to be tried; at least one.

    `templates` make rendered names readable, `timezone` says when a date ends. A word behind
    `@` that is reserved (`v3`, `latest`, `best`) or a date is never read as a label.
    Raises `UsageError` where `text` cannot name a snapshot.
    """
    if "@" in text:  # which no rendered name holds
        return (_parse_qualified(text, timezone),)
    readings: list[SnapshotSpec] = []
    for template in templates:
        words = template.parse(text)
        if words is not None:
            readings.append(
                SnapshotSpec(
                    text,
                    Kind.VERSION,
                    model=words.model,
                    host=words.host,
                    version=words.version,
                    words=words,
                )
            )
    host, model = _split_host(text)
    if _NAME.fullmatch(model) and (not host or _NAME.fullmatch(host)):
        readings.append(SnapshotSpec(text, Kind.LATEST, model=model, host=host))
    if _ID.fullmatch(text.lower()):
        readings.append(SnapshotSpec(text, Kind.ID, id_prefix=text.lower()))
    if not readings:
        raise UsageError(f"{text!r} cannot name a snapshot", hint=_HINT)
    return tuple(readings)


def parse_names(readings: Sequence[SnapshotSpec]) -> tuple[str, ...]:
    """The model names that the readings ask for, each once: for `nearest_names` when none fits."""
    return tuple(dict.fromkeys(reading.model for reading in readings if reading.model))


def _split_host(text: str) -> tuple[str, str]:
    host, colon, model = text.rpartition(":")
    return (host, model) if colon else ("", text)


def _parse_qualified(text: str, timezone: tzinfo) -> SnapshotSpec:
    name, _, which = text.partition("@")
    host, model = _split_host(name)
    if not _NAME.fullmatch(model):
        raise UsageError(f"{text!r} names no model before the @", hint=_HINT)
    if ":" in name and not _NAME.fullmatch(host):
        raise UsageError(f"{text!r} names no host before the :", hint="write HOST:MODEL@v3")
    if not which:
        raise UsageError(f"{text!r} says nothing behind the @", hint=_HINT)
    version = _VERSION.fullmatch(which)
    if version is not None:
        return SnapshotSpec(text, Kind.VERSION, model=model, host=host, version=int(version[1]))
    if which == "latest":
        return SnapshotSpec(text, Kind.LATEST, model=model, host=host)
    best, colon, metric = which.partition(":")
    if best == "best" and (metric or not colon):
        return SnapshotSpec(text, Kind.BEST, model=model, host=host, metric=metric)
    date = _DATE.fullmatch(which)
    if date is not None:
        before = _end_of(text, date, timezone)
        return SnapshotSpec(text, Kind.DATE, model=model, host=host, before=before)
    label, equals, value = which.partition("=")
    if not label:
        raise UsageError(f"{text!r} names no label before the =", hint="write MODEL@KEY=VALUE")
    return SnapshotSpec(
        text, Kind.LABEL, model=model, host=host, label=label, value=value if equals else None
    )


def _end_of(text: str, match: re.Match[str], timezone: tzinfo) -> float:
    """The end of the day, minute or second that was named: what was taken in it still counts."""
    year, month, day, hour, minute, second, zone = match.groups()
    try:
        moment = datetime(
            int(year), int(month), int(day), int(hour or 0), int(minute or 0), int(second or 0)
        )
        if hour is None:
            moment += timedelta(days=1)
        elif second is None:
            moment += timedelta(minutes=1)
        else:
            moment += timedelta(seconds=1)
        if zone is None:
            return moment.replace(tzinfo=timezone).timestamp()
        return datetime.fromisoformat(f"{moment.isoformat()}{zone}").timestamp()
    except (ValueError, OverflowError):
        raise UsageError(
            f"{text!r} holds no date of the calendar", hint="write MODEL@2026-11-23"
        ) from None
