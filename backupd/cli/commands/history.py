"""`log`: the versions of a model as a graph."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from backupd import errors
from backupd.cli import completion, documents, output
from backupd.cli.app import App
from backupd.cli.command import command
from backupd.cli.formatting import count, local_time, pairs, printable, size
from backupd.cli.opening import opened
from backupd.cli.parameters import repository_option, target_option
from backupd.policy.schemes import EVERYTHING

if TYPE_CHECKING:
    from backupd.operations.history import History, Version

_COMMIT_DIGITS = 10
_MOST_LANES = 20  # more than that is no picture any more


@command(
    "log",
    exits=(
        errors.EXIT_NOT_FOUND,
        errors.EXIT_TARGET,
        errors.EXIT_KEY,
        errors.EXIT_DAMAGED,
    ),
    examples=(
        ("backupd log llama-ft", "the newest versions, and what each stands on"),
        ("backupd log llama-ft --limit 100", "more of them"),
    ),
)
@click.argument("model", shell_complete=completion.complete_models)
@click.option("--host", metavar="HOST", default="", help="The model of this host.")
@click.option(
    "--limit",
    metavar="N",
    type=click.IntRange(min=1),
    help="Show at most N versions. [default: 30, -v: all]",
)
@target_option("Only what is on this target.")
@repository_option
@click.pass_obj
def log_command(
    app: App, model: str, host: str, limit: int | None, target: str, repository: str
) -> None:
    """Draw the history of MODEL: its versions, the newest first, each with what it stands on.

    A version stands on the one that it was compared with. A switch to an earlier version
    makes a branch, and so does a snapshot under another scheme. Where a parent was
    forgotten, the line goes to the nearest version behind it that is still there, and the
    parent is named. (here) marks what the folder was last known to be.
    """
    from backupd.operations.history import read_history

    with opened(app, repository, quickly=True) as installation:
        history = read_history(installation, model, host=host, target=target)
    most = limit or (len(history.versions) if app.verbose or app.json else 30)
    output.document(
        app,
        {
            "versions": [
                _document(history.versions[line.version]) for line in history.lines if line.version
            ][:most],
            "unreachable": list(history.unreachable),
            "damaged": dict(history.damaged),
        },
    )
    if not app.json:
        _say(app, history, most)
    for name in history.unreachable:
        output.warn(app, f"not looked at, as it cannot be reached: {name}")
    for name, problem in history.damaged.items():
        output.warn(app, f"{name}: {printable(problem)}; see `backupd check`")


def _document(version: Version) -> documents.Document:
    return {
        **documents.snapshot(version.info),
        "stands_on": version.stands_on or None,
        "here": version.here,
        "commit": version.commit or None,
    }


def _say(app: App, history: History, most: int) -> None:
    left = most
    width = max((len(line.graph) for line in history.lines), default=0)
    if width > 2 * _MOST_LANES:
        output.note(app, f"{width // 2} branches are too many to draw; each names its parent")
    for line in history.lines:
        if line.version and not left:
            output.say(app, f"and {count(len(history.versions) - most, 'more version')}; see -v")
            return
        graph = (line.graph, line.below) if width <= 2 * _MOST_LANES else ("*", "")
        if not line.version:
            if width <= 2 * _MOST_LANES:
                output.result(app, line.graph)
            continue
        left -= 1
        version = history.versions[line.version]
        head, details = _head(version), _details(version)
        # Some lines about one version stand under each other, however many lanes there are.
        column = max(len(graph[0]), len(graph[1]))
        output.result(app, f"{graph[0]:<{column}}  {head}")
        for detail in details:
            output.result(app, f"{graph[1]:<{column}}  {detail}")


def _head(version: Version) -> str:
    info = version.info
    told = [f"v{info.version}", local_time(info.time), _stands_on(version)]
    if info.labels:
        told.append(f"({pairs(info.labels)})")
    if version.here:
        told.append("(here)")
    return "  ".join(told)


def _stands_on(version: Version) -> str:
    info = version.info
    if not info.parent:
        return "first"
    if version.stands_on == info.parent:
        return f"on v{info.parent}"
    return f"on v{info.parent}, forgotten"


def _details(version: Version) -> list[str]:
    """What else is known: how far the training was, metrics, the scheme, the code."""
    info = version.info
    parts = [f"step {info.step:,}"] if info.step is not None else []
    if info.epoch is not None:
        parts.append(f"epoch {info.epoch:g}")
    if info.metrics:
        parts.append(pairs(info.metrics))
    if info.scheme != EVERYTHING:
        parts.append(info.scheme)
    if version.commit:
        parts.append(f"commit {printable(version.commit[:_COMMIT_DIGITS])}")
    if info.incomplete:
        parts.append(f"lacks {count(len(info.incomplete), 'file')}")
    parts.append(f"{size(info.size_bytes)}, {size(info.added_bytes)} new")
    return _wrapped(parts)


def _wrapped(parts: list[str], width: int = 60) -> list[str]:
    lines = [parts[0]]
    for part in parts[1:]:
        if len(lines[-1]) + len(part) + 2 > width:
            lines.append(part)
        else:
            lines[-1] += f"; {part}"
    return lines
