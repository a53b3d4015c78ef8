"""A model's past that others kept: which states there are, in which order, and of what time.

What is found is a list of values; taking them in is in `importing`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, time, tzinfo
from pathlib import Path

from backupd.errors import BackupdError, UsageError
from backupd.policy.naming import NameWords, Template, TemplateKind, parse_template

LABEL = "imported"
"""The label that says which state a snapshot is of, and by which a later run passes over it."""

_MAX_DEPTH = 8


@dataclass(frozen=True, slots=True)
class PastState:
    """One state: `source` names it for good, as it is what a later run knows it by.

    `place` is its folder or file, None where it must be fetched first. `time` is in seconds since
    the epoch; `version` 0 and `step` None where nobody told.
    """

    source: str
    time: float
    place: Path | None = None
    version: int = 0
    step: int | None = None
    labels: Mapping[str, str] = field(default_factory=dict)


def find_states(
    folder: Path, pattern: str, *, model: str, zone: tzinfo
) -> tuple[list[PastState], list[str]]:
    """The states below a folder, oldest first, and notes on what was passed over.

    `pattern` is a template of `policy.naming`, or a glob where it has no word. The time is that
    of the newest file; where the name has a date, and that file is not of that day, it is noon.
    Raises `UsageError` for a pattern that is none, `BackupdError` where nothing fits.
    """
    if not folder.is_dir():
        raise BackupdError(f"{folder} is no folder", hint="name the folder that holds the past")
    template = _template(pattern)
    found: list[tuple[tuple[object, ...], PastState]] = []
    others: set[str] = set()
    for path, words in _matching(folder, pattern, template):
        if words.model and words.model != model:
            others.add(words.model)
            continue
        newest = _newest_time(path)
        moment = _time_of(words.date, newest, zone)
        state = PastState(
            source=str(path.relative_to(folder)),
            time=moment,
            place=path,
            version=words.version,
            step=words.step,
            labels=words.labels,
        )
        step = -1 if words.step is None else words.step
        day = words.date or f"{datetime.fromtimestamp(moment, zone):%Y-%m-%d}"
        found.append(((day, words.version, step, moment, state.source), state))
    if not found:
        also = f"; there are {', '.join(sorted(others))}" if others else ""
        raise BackupdError(
            f"nothing in {folder} fits {pattern!r}{also}",
            hint="a pattern is as in --pattern '{model_name}_{YYYYMMDD}_v{version}', or a glob",
        )
    found.sort(key=lambda item: item[0])
    notes = [f"passed over, as of other models: {', '.join(sorted(others))}"] if others else []
    return _in_order(state for _, state in found), notes


def in_order_of_time(states: list[PastState]) -> list[PastState]:
    """States sorted by their times."""
    return _in_order(iter(sorted(states, key=lambda state: (state.time, state.source))))


def _in_order(states: Iterator[PastState]) -> list[PastState]:
    """No state before the one that it follows: a name says more than a file's time."""
    ordered: list[PastState] = []
    for state in states:
        if ordered and state.time < ordered[-1].time:
            state = replace(state, time=ordered[-1].time)
        ordered.append(state)
    return ordered


def _template(pattern: str) -> Template | None:
    if "{" not in pattern:
        if not pattern or pattern.startswith("/") or ".." in pattern.split("/"):
            raise UsageError(f"the pattern {pattern!r} leads out of the folder")
        return None
    try:
        return parse_template(pattern, TemplateKind.PATTERN)
    except ValueError as error:
        message, _, hint = str(error).partition("; ")
        raise UsageError(f"the pattern {pattern!r} {message}", hint=hint) from None


def _matching(
    folder: Path, pattern: str, template: Template | None
) -> Iterator[tuple[Path, NameWords]]:
    if template is None:
        for path in sorted(folder.glob(pattern)):
            if not path.is_symlink() and (path.is_dir() or path.is_file()):
                yield path, NameWords()
        return
    depth = pattern.strip("/").count("/") + 1
    for path in _at_depth(folder, min(depth, _MAX_DEPTH)):
        words = template.parse(str(path.relative_to(folder)))
        if words is not None and (not words.date or _is_date(words.date)):
            yield path, words


def _at_depth(folder: Path, depth: int) -> Iterator[Path]:
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.is_symlink():
            continue
        if depth == 1:
            yield Path(entry.path)
        elif entry.is_dir():
            yield from _at_depth(Path(entry.path), depth - 1)


def _is_date(text: str) -> bool:
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


def _newest_time(path: Path) -> float:
    """The mtime of the newest file, of a folder without any its own."""
    newest = 0.0
    for base, _, names in os.walk(path):
        for name in names:
            try:
                newest = max(newest, os.lstat(os.path.join(base, name)).st_mtime)
            except OSError:
                continue
    return newest or path.lstat().st_mtime


def _time_of(date: str, newest: float, zone: tzinfo) -> float:
    if not date or f"{datetime.fromtimestamp(newest, zone):%Y-%m-%d}" == date:
        return newest
    day = datetime.fromisoformat(date).date()
    return datetime.combine(day, time(12), zone).timestamp()


def parse_moment(text: str) -> float:
    """A time of RFC 3339, with as many digits of a second as one likes, as seconds."""
    shortened = re.sub(r"(\.\d{6})\d+", r"\1", text)
    return datetime.fromisoformat(shortened).timestamp()
