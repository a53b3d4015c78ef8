"""Standard output: words and tables for people, or one JSON document for programs.

With `--json` exactly one document is written to standard output, whatever happens; everything
else (progress, notes, errors in words) goes to standard error.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import IO, Any

import click

from backupd.cli import formatting
from backupd.cli.app import App

DEFAULT_COLUMNS = 80


def terminal_width(stream: IO[str], environment: Mapping[str, str]) -> int:
    """Columns that a table may take on `stream`; 0 where it is no terminal and nothing is cut.

    `COLUMNS` is honoured on both, so that a pager or a test can say how wide it is.
    """
    columns = environment.get("COLUMNS", "")
    if columns.isdigit() and int(columns) > 0:
        return int(columns)
    try:
        return os.get_terminal_size(stream.fileno()).columns or DEFAULT_COLUMNS
    except (OSError, ValueError, AttributeError):
        return 0


def wants_color(environment: Mapping[str, str]) -> bool | None:
    """False where colours are unwanted (https://no-color.org), None to let the terminal say."""
    if environment.get("NO_COLOR") or environment.get("TERM") == "dumb":
        return False
    return None


def say(app: App, text: str = "") -> None:
    """A line for people; nothing with `--json` or `--quiet`."""
    if app.chatty:
        click.echo(text)


def result(app: App, text: str) -> None:
    """A line that is the command's answer: said with `--quiet` too."""
    if not app.json:
        click.echo(text)


def warn(app: App, text: str) -> None:
    """A line of warning on standard error, also with `--quiet`; a document carries its own."""
    if not app.json:
        click.echo(f"{click.style('warning:', fg='yellow', bold=True)} {text}", err=True)


def note(app: App, text: str) -> None:
    """A line aside on standard error; nothing with `--json` or `--quiet`."""
    if app.chatty:
        click.echo(f"{click.style('note:', bold=True)} {text}", err=True)


def table(app: App, columns: Sequence[formatting.Column], rows: Sequence[Sequence[str]]) -> None:
    """A table for people, its title bold on a terminal; nothing where there is no row."""
    if app.json or not rows:
        return
    width = terminal_width(sys.stdout, app.environment)
    title, *lines = formatting.table(columns, rows, width)
    click.echo(click.style(title, bold=True))
    click.echo("\n".join(lines))


def facts(app: App, pairs: Iterable[tuple[str, str]]) -> None:
    """Names and values, one a line, aligned; empty values are left out."""
    shown = [(name, value) for name, value in pairs if value]
    column = max((len(name) for name, _ in shown), default=0)
    for name, value in shown:
        click.echo(f"{click.style(name.ljust(column), bold=True)}  {value}")


def document(app: App, value: Mapping[str, Any]) -> None:
    """The one JSON document; nothing without `--json`."""
    if app.json:
        click.echo(json.dumps(value, indent=2, ensure_ascii=True))


def streamed_document(
    app: App, head: Mapping[str, Any], name: str, items: Iterable[Mapping[str, Any]]
) -> None:
    """A document whose list `name` may be too long for memory: items are written as they come."""
    if not app.json:
        return
    opening = json.dumps(head)[:-1]
    click.echo(f"{opening}{', ' if head else ''}{json.dumps(name)}: [", nl=False)
    separator = "\n"
    for item in items:
        click.echo(separator + json.dumps(item), nl=False)
        separator = ",\n"
    click.echo("\n]}")
