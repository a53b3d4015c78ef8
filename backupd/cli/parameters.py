"""Options and argument types that several commands share."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import click

from backupd.cli import completion

_Function = TypeVar("_Function", bound=Callable[..., Any])


def pair(value: str) -> tuple[str, str]:
    """`KEY=VALUE`, or `KEY` alone for an empty value, as `(key, value)`."""
    key, _, text = value.partition("=")
    if not key or "@" in key or any(char.isspace() for char in key):
        raise click.BadParameter(f"{value!r} names no label; write KEY=VALUE")
    return key, text


def metric(value: str) -> tuple[str, float]:
    """`KEY=NUMBER` as `(key, number)`."""
    key, _, text = value.partition("=")
    number = _number(text)
    if not key or not math.isfinite(number):
        raise click.BadParameter(f"{value!r} is no metric; write KEY=NUMBER, as in eval_loss=1.84")
    return key, number


def percent(value: str | float) -> float:
    """`5` or `5%` as a number above 0 and up to 100."""
    number = _number(str(value).removesuffix("%"))
    if not 0 < number <= 100:
        raise click.BadParameter(f"{value!r} is no percentage; write 5 or 5%")
    return number


def duration(value: str) -> float:
    """`90d`, `12h`, `1d12h` in seconds."""
    from backupd.config.quantities import parse_duration

    try:
        return parse_duration(value).total_seconds()
    except ValueError as error:
        raise click.BadParameter(f"{value!r} {error}") from None


def moment(value: str) -> float:
    """`2026-11-20T14:30`, with a zone or in this box's, in seconds since the epoch."""
    from backupd.config.quantities import parse_time

    try:
        return parse_time(value)
    except ValueError as error:
        raise click.BadParameter(f"{value!r} {error}") from None


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def mapping(pairs: Iterable[tuple[str, Any]], what: str) -> dict[str, Any]:
    """Pairs as a mapping; a key named twice is a mistake, not a choice."""
    collected: dict[str, Any] = {}
    for key, value in pairs:
        if key in collected:
            raise click.UsageError(f"the {what} {key!r} is given twice")
        collected[key] = value
    return collected


def repository_option(function: _Function) -> _Function:
    """`--repository`, for commands that need no configuration."""
    return click.option(
        "--repository",
        metavar="PLACE",
        default="",
        help="Read this repository (a folder, or s3://BUCKET/PREFIX) without any configuration.",
    )(function)


def snapshot_argument(function: _Function) -> _Function:
    """The SNAPSHOT argument, with completion."""
    return click.argument(
        "snapshot", metavar="SNAPSHOT", shell_complete=completion.complete_snapshots
    )(function)


def target_option(
    help_text: str, *, name: str = "--target", variable: str = "target", multiple: bool = False
) -> Callable[[_Function], _Function]:
    """An option that names a target, with completion."""

    def decorate(function: _Function) -> _Function:
        return click.option(
            name,
            variable,
            metavar="TARGET",
            multiple=multiple,
            default=None if multiple else "",
            shell_complete=completion.complete_targets,
            help=help_text,
        )(function)

    return decorate


def dry_run_option(function: _Function) -> _Function:
    """`--dry-run`."""
    return click.option("--dry-run", is_flag=True, help="Show what would be done, and do nothing.")(
        function
    )
