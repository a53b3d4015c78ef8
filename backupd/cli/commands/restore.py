"""`restore`: gives a snapshot back."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from backupd import errors
from backupd.cli import documents, output
from backupd.cli.app import App
from backupd.cli.code import say_code_report, say_findings
from backupd.cli.command import command
from backupd.cli.commands import thawing
from backupd.cli.documents_code import code_report
from backupd.cli.formatting import Column, count, local_time, printable, size, span
from backupd.cli.opening import found_snapshot, opened
from backupd.cli.parameters import (
    dry_run_option,
    repository_option,
    snapshot_argument,
    target_option,
)
from backupd.cli.progress import shown_progress
from backupd.cli.stopping import stop_on_signal

if TYPE_CHECKING:
    from backupd.config.settings import ModelSettings
    from backupd.operations.catalog import ResolvedSnapshot
    from backupd.operations.reports import PlannedFile, RestoreReport, SnapshotInfo

_PLAN_COLUMNS = (Column("ACTION"), Column("SIZE", right=True), Column("PATH"))
_SHOWN = 20


@command(
    "restore",
    exits=(
        errors.EXIT_FAILED,
        errors.EXIT_PARTIAL,
        errors.EXIT_NOT_FOUND,
        errors.EXIT_TARGET,
        errors.EXIT_KEY,
        errors.EXIT_DAMAGED,
    ),
    examples=(
        ("backupd restore llama-ft@latest", "to where it was, when the folder is gone"),
        ("backupd restore llama-ft@v12 --to /tmp/v12", "beside the one that is there"),
        (
            "backupd restore llama-ft@v12 --include '*.safetensors' --dry-run",
            "what would be written, file by file",
        ),
        (
            "backupd restore llama-ft@best --to model --with-code chat --safe",
            "with the code that made it, and without what may run code",
        ),
        (
            "BACKUPD_KEY_FILE=key backupd restore llama-ft@latest --to llama-ft"
            " --repository s3://team-models/box1",
            "on a bare machine, from the repository and the key alone",
        ),
    ),
)
@snapshot_argument
@click.option(
    "--to",
    metavar="DIR",
    type=click.Path(file_okay=False),
    help="Restore into this folder, not to where it was.",
)
@click.option(
    "--include",
    metavar="GLOB",
    multiple=True,
    help="Only these paths, as in .gitignore; give it again for more.",
)
@click.option(
    "--exclude",
    metavar="GLOB",
    multiple=True,
    help="Not these paths; give it again for more.",
)
@click.option(
    "--safe",
    is_flag=True,
    help="Leave out the files that may run code when they are loaded, and name them.",
)
@click.option(
    "--with-code",
    metavar="DIR",
    type=click.Path(file_okay=False),
    help="Give back the code as well, into this folder.",
)
@target_option("Read from this target, not from the nearest.")
@click.option("--overwrite", is_flag=True, help="Replace files that are there and differ.")
@click.option(
    "--thaw",
    "tier",
    type=click.Choice(thawing.TIERS),
    default="standard",
    show_default=True,
    help="How fast to thaw packs in an archive class, or `no` to ask for none.",
)
@click.option("--wait", is_flag=True, help="Wait until they are thawed, and go on.")
@dry_run_option
@repository_option
@click.pass_obj
def restore_command(
    app: App,
    snapshot: str,
    to: str | None,
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    safe: bool,
    with_code: str | None,
    target: str,
    overwrite: bool,
    tier: str,
    wait: bool,
    dry_run: bool,
    repository: str,
) -> int:
    """Give a SNAPSHOT back: to where it was, or into DIR.

    Every byte is verified before it is written, and each file is written beside its place
    and renamed when it is whole. Files that are there already and right are left alone, so
    an interrupted restore goes on when it is run again. A file that is there and differs is
    replaced only with --overwrite; files that the snapshot does not hold are never touched.
    What cannot be given is named, the rest is given, and the exit code is 3.

    --safe goes by what was found when the snapshot was taken: nothing is loaded to tell.
    --with-code gives the source into DIR/source, from the snapshot where it keeps it, else
    from the commit, with the changes to it; and DIR/requirements.txt with the packages.

    Packs in an archive class (GLACIER, DEEP_ARCHIVE) are asked to be thawed, and only those
    that are needed; how long that takes and what it costs is said, and the exit code is 3.
    The same command goes on when they are.

    `backupd help snapshots` tells how a SNAPSHOT is named.
    """
    from backupd.operations.reports import RestoreReport
    from backupd.operations.restore import RestoreRequest, plan_restore, restore
    from backupd.operations.restore_code import require_code, restore_code
    from backupd.operations.thaw import is_archived

    request = RestoreRequest(
        to=Path(to).absolute() if to else None,
        include=include,
        exclude=exclude,
        overwrite=overwrite,
        safe=safe,
    )
    started = app.clock()
    with opened(app, repository, quickly=True) as installation:
        resolved = found_snapshot(app, installation, snapshot, target)
        info = resolved.info
        if with_code:
            require_code(resolved)
        place = str(request.to or info.root)
        _say_intent(app, info, place, where_it_was=request.to is None)
        archived = is_archived(installation, resolved)
        with stop_on_signal() as stop:
            cold = None
            if archived:
                cold = thawing.look(app, installation, resolved, request, tier, stop)
            if dry_run:
                if cold is not None:
                    thawing.say(app, cold)
                plan = list(plan_restore(installation, resolved, request))
                _show_plan(app, info, place, plan)
                return errors.EXIT_DONE
            report = RestoreReport(0, 0, 0, {})
            while cold is None or thawing.thaw(app, installation, cold, wait=wait, stop=stop):
                with shown_progress(app) as progress:
                    report = restore(installation, resolved, request, progress=progress, stop=stop)
                cold = None
                if report.cold_packs:
                    # As in a bucket whose objects a rule of its own moved.
                    cold = thawing.look(app, installation, resolved, request, tier, stop)
                if cold is None:
                    break
            code = None
            if with_code and cold is None:
                with shown_progress(app) as progress:
                    code = restore_code(
                        installation,
                        resolved,
                        Path(with_code).absolute(),
                        overwrite=overwrite,
                        progress=progress,
                        stop=stop,
                    )
    output.document(
        app,
        {
            "snapshot": documents.snapshot(info),
            "to": documents.text(place),
            "dry_run": False,
            **documents.restore_report(report),
            "code": code_report(code, str(with_code)) if code else None,
            "thaw": thawing.document(cold),
        },
    )
    if cold is not None and not report.cold_packs:
        output.say(app, "nothing was written")
        return errors.EXIT_PARTIAL
    _say_report(app, report, place, app.clock() - started)
    say_findings(app, report.findings)
    if report.failed and not safe and not app.json:
        _say_where_else(resolved, installation.settings.models.get(info.model))
    if code:
        say_code_report(app, code, str(with_code))
    partial = report.failed or (code is not None and code.failed)
    return errors.EXIT_PARTIAL if partial else errors.EXIT_DONE


def _say_where_else(resolved: ResolvedSnapshot, model: ModelSettings | None) -> None:
    """Names the other targets, as with `--target` only the one was looked at."""
    known = dict.fromkeys((*resolved.info.targets, *(model.targets if model else ())))
    others = [name for name in known if name != resolved.repository.name]
    if others:
        click.echo(f"hint: it may be whole on {others[0]}: --target {others[0]}", err=True)


def _say_intent(app: App, info: SnapshotInfo, place: str, *, where_it_was: bool) -> None:
    output.say(
        app,
        f"{info.name} of {local_time(info.time)} from {info.host}:"
        f" {count(info.file_count, 'file')}, {size(info.size_bytes)}",
    )
    output.say(app, f"to {printable(place)}{' (where it was)' if where_it_was else ''}")
    if info.incomplete:
        output.warn(
            app,
            f"{info.name} was taken without {count(len(info.incomplete), 'file')} that never held"
            f" still; `backupd show {info.name}` names them",
        )


def _show_plan(app: App, info: SnapshotInfo, place: str, plan: Sequence[PlannedFile]) -> None:
    output.document(
        app,
        {
            "snapshot": documents.snapshot(info),
            "to": documents.text(place),
            "dry_run": True,
            "files": [documents.planned_file(planned) for planned in plan],
        },
    )
    output.table(
        app,
        _PLAN_COLUMNS,
        [(planned.action, size(planned.size_bytes), printable(planned.path)) for planned in plan],
    )
    actions: dict[str, list[PlannedFile]] = {}
    for planned in plan:
        actions.setdefault(planned.action, []).append(planned)
    parts = [
        f"{action} {len(files):,} ({size(sum(file.size_bytes for file in files))})"
        for action, files in actions.items()
    ]
    output.say(app, f"\nwould {', '.join(parts) or 'do nothing'}; nothing was written")
    if "refuse" in actions:
        output.say(app, "what differs is replaced only with --overwrite; or restore --to DIR")


def _say_report(app: App, report: RestoreReport, place: str, seconds: float) -> None:
    parts = []
    if report.restored_files or not report.skipped_files:
        parts.append(
            f"restored and verified {count(report.restored_files, 'file')},"
            f" {size(report.restored_bytes)}, in {span(seconds)}"
        )
    if report.skipped_files:
        were = "was" if report.skipped_files == 1 else "were"
        parts.append(f"{count(report.skipped_files, 'file')} {were} right already")
    output.say(app, "; ".join(parts))
    for line in report.notes:
        output.note(app, printable(line))
    if not report.failed:
        return
    output.warn(
        app, f"{count(len(report.failed), 'file')} could not be given to {printable(place)}:"
    )
    limit = len(report.failed) if app.verbose else _SHOWN
    if not app.json:
        for path, reason in list(report.failed.items())[:limit]:
            click.echo(f"  {printable(path)}: {printable(reason)}", err=True)
        if len(report.failed) > limit:
            click.echo(f"  and {len(report.failed) - limit:,} more, which -v shows", err=True)
