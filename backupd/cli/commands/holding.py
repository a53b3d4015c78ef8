"""`extend` and `undelete`: what a bucket with Object Lock and versions keeps from being lost."""

from __future__ import annotations

from typing import Any

import click

from backupd import errors
from backupd.cli import output
from backupd.cli.app import App
from backupd.cli.command import command
from backupd.cli.commands.snapshot import combined
from backupd.cli.formatting import count, local_time, printable, size, utc_time
from backupd.cli.opening import chosen_targets, opened
from backupd.cli.parameters import dry_run_option, moment, target_option
from backupd.cli.progress import shown_progress
from backupd.cli.stopping import stop_on_signal

_SHOWN = 20


@command(
    "extend",
    exits=errors.REPOSITORY_EXITS,
    examples=(
        ("backupd extend", "on every target that has `object_lock`, as the daemon does daily"),
        ("backupd extend --all", "also what was stored lately, as after `object_lock` was set"),
    ),
)
@target_option("Only this target; give it again for one more.", multiple=True)
@click.option(
    "--all",
    "everything",
    is_flag=True,
    help="Look at every object, also those that must have time left.",
)
@dry_run_option
@click.pass_obj
def extend_command(app: App, target: tuple[str, ...], everything: bool, dry_run: bool) -> int:
    """Extend the Object Lock of what the snapshots need.

    What has less than half of `object_lock: {days: N}` left is held for N days from now on.
    What no snapshot needs any more is not, so that prune can take it when its time is up.
    """
    from backupd.operations.append_only import has_lock
    from backupd.operations.extend import extend

    answers: list[dict[str, Any]] = []
    codes: list[int] = []
    with opened(app) as installation, stop_on_signal() as stop:
        names = chosen_targets(installation, target)
        if not target:
            names = [name for name in names if has_lock(installation.settings, name)]
        if not names:
            output.say(app, "no target has `object_lock`")
        for name in names:
            with shown_progress(app) as progress:
                report = extend(
                    installation,
                    name,
                    everything=everything,
                    dry_run=dry_run,
                    progress=progress,
                    stop=stop,
                )
            answers.append(
                {
                    "target": name,
                    "dry_run": dry_run,
                    "needed": report.needed,
                    "extended": report.extended,
                    "extended_bytes": report.extended_bytes,
                    "until": utc_time(report.until),
                    "problems": list(report.problems),
                }
            )
            would = "would extend" if dry_run else "extended"
            output.say(
                app,
                f"{name}: {would} {report.extended:,} of {count(report.needed, 'object')}"
                f" ({size(report.extended_bytes)}) to {local_time(report.until)}",
            )
            _say_all(app, report.problems)
            codes.append(errors.EXIT_PARTIAL if report.problems else errors.EXIT_DONE)
    output.document(app, {"targets": answers})
    return combined(codes)


def _say_all(app: App, problems: tuple[str, ...]) -> None:
    for line in problems[:_SHOWN]:
        output.warn(app, printable(line))
    if len(problems) > _SHOWN:
        output.warn(app, f"and {len(problems) - _SHOWN:,} more")


@command(
    "undelete",
    exits=errors.REPOSITORY_EXITS,
    examples=(
        ("backupd undelete s3 --as-of 2026-11-20T14:30 --dry-run", "what was there then"),
        ("backupd undelete s3 --as-of 2026-11-20T14:30", "is there again"),
    ),
)
@click.argument("target", metavar="TARGET")
@click.option(
    "--as-of",
    "as_of",
    metavar="TIME",
    required=True,
    type=moment,
    help="When all was well: 2026-11-20T14:30, in this box's time, or with +00:00.",
)
@dry_run_option
@click.pass_obj
def undelete_command(app: App, target: str, as_of: float, dry_run: bool) -> int:
    """Bring back what was in the bucket TARGET at a TIME and was deleted or changed since.

    The bucket must keep versions, as one with Object Lock does. Marks of deletion are taken
    away, old versions are copied over what somebody wrote over them, and the marks of
    snapshots that were forgotten since are hidden; what was stored since stays. To read
    from the bucket without changing it, restore with `as_of: TIME` in the target's
    settings, or with `--repository 's3://BUCKET/PREFIX?as_of=TIME'`.
    """
    from backupd.operations.undelete import undelete

    with opened(app) as installation, stop_on_signal() as stop, shown_progress(app) as progress:
        [name] = chosen_targets(installation, (target,))
        report = undelete(
            installation, name, as_of=as_of, dry_run=dry_run, progress=progress, stop=stop
        )
    output.document(
        app,
        {
            "target": name,
            "dry_run": dry_run,
            "brought_back": list(report.brought_back),
            "hidden": list(report.hidden),
            "size_bytes": report.size_bytes,
            "failed": list(report.failed),
        },
    )
    would = "would bring back" if dry_run else "brought back"
    output.say(
        app,
        f"{name}: {would} {count(len(report.brought_back), 'object')} ({size(report.size_bytes)})"
        f" and {'take' if dry_run else 'took'} away {count(len(report.hidden), 'mark')}",
    )
    _say_all(app, report.failed)
    return errors.EXIT_PARTIAL if report.failed else errors.EXIT_DONE
