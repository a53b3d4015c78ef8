"""`import`: a model's past that others kept becomes versions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

import click

from backupd import errors
from backupd.cli import completion, documents, output
from backupd.cli.app import App
from backupd.cli.command import command
from backupd.cli.formatting import Column, count, local_time, printable, size, utc_time
from backupd.cli.opening import chosen_models, opened
from backupd.cli.parameters import dry_run_option
from backupd.cli.progress import shown_progress
from backupd.cli.stopping import stop_on_signal

if TYPE_CHECKING:
    from backupd.config.settings import ModelSettings
    from backupd.operations.importing import Scratch
    from backupd.operations.past import PastState
    from backupd.operations.reports import SnapshotReport
    from backupd.operations.restic import ResticRepository

_COLUMNS = (
    Column("TIME"),
    Column("STATE", shrink=20, wrap=True),
    Column("VERSION", drop=2),
    Column("STEP", right=True, drop=1),
)


@command(
    "import",
    exits=(
        errors.EXIT_FAILED,
        errors.EXIT_PARTIAL,
        errors.EXIT_NOT_FOUND,
        errors.EXIT_TARGET,
        errors.EXIT_KEY,
        errors.EXIT_DAMAGED,
    ),
    examples=(
        (
            "backupd import llama-ft /srv/old --pattern '{model_name}_{YYYYMMDD}_v{version}'",
            "a folder a version, named by date and version",
        ),
        ("backupd import llama-ft /srv/old --pattern 'run-*' --dry-run", "what a glob would find"),
        (
            "RESTIC_PASSWORD_FILE=/root/restic backupd import llama-ft --restic /mnt/restic",
            "every snapshot of a restic repository that holds the model's folder",
        ),
    ),
)
@click.argument("model", shell_complete=completion.complete_models)
@click.argument("folder", metavar="[FOLDER]", required=False, default="")
@click.option(
    "--pattern",
    metavar="PATTERN",
    default="*",
    show_default=True,
    help="How the states in FOLDER are named: a template of words, or a glob.",
)
@click.option("--restic", "repository", metavar="REPOSITORY", default="", help="Read restic's.")
@click.option("--path", default="", metavar="DIR", help="The model's folder in restic's snapshots.")
@click.option("--host", default="", metavar="HOST", help="Only restic's snapshots of this host.")
@click.option("--tag", "tags", metavar="TAG", multiple=True, help="Only restic's with this tag.")
@click.option(
    "--password-file", metavar="FILE", default="", help="The password of restic's repository."
)
@click.option(
    "--scratch",
    metavar="DIR",
    type=click.Path(file_okay=False),
    help="Where restic's snapshots are restored, one at a time. [default: in the state folder]",
)
@dry_run_option
@click.pass_obj
def import_command(
    app: App,
    model: str,
    folder: str,
    pattern: str,
    repository: str,
    path: str,
    host: str,
    tags: tuple[str, ...],
    password_file: str,
    scratch: str | None,
    dry_run: bool,
) -> int:
    """Take the past of MODEL in: dated folders, or the snapshots of a restic repository.

    Each state becomes a version, the oldest first, with the time it is of: that of its name's
    date, of its newest file, or of restic's snapshot. What several have in common is stored
    once, and checkpoints as their differences. A version number in the names is kept where it
    is free. Each version carries the label `imported`, by which a run that was interrupted
    goes on; nothing is changed in FOLDER or in restic's repository.

    The past comes first: a model that has newer snapshots is refused.
    """
    from backupd.operations.importing import Scratch, import_states, plan_import
    from backupd.operations.restic import ResticRepository

    if bool(folder) == bool(repository):
        raise click.UsageError("give either a FOLDER or --restic REPOSITORY")
    with opened(app) as installation, stop_on_signal() as stop:
        [settings] = chosen_models(installation.settings, (model,))
        place = Path(scratch) if scratch else installation.settings.state_dir / "import" / model
        with Scratch(place) as own:
            source: _Source
            if repository:
                restic = ResticRepository(repository, app.environment, password_file)
                source = _restic(settings, restic, own, stop, path=path, host=host, tags=tags)
            else:
                source = _folders(settings, Path(folder).absolute(), pattern, own)
            plan = plan_import(installation, settings, source.states)
            for note in source.notes:
                output.note(app, printable(note))
            if plan.done:
                output.say(app, f"{count(plan.done, 'state')} imported before")
            if dry_run:
                _say_plan(app, settings, plan.states)
                return errors.EXIT_DONE
            _refuse_beside_daemon(installation.settings.state_dir)
            answers: list[dict[str, Any]] = []
            codes = [errors.EXIT_DONE]
            with shown_progress(app) as progress:
                steps = import_states(
                    installation, settings, plan, source.opened, progress=progress, stop=stop
                )
                for number, (state, report) in enumerate(steps, 1):
                    answers.append({"source": state.source, **documents.snapshot_report(report)})
                    codes.append(errors.EXIT_PARTIAL if report.partial else errors.EXIT_DONE)
                    _say_done(app, f"{number} of {len(plan.states)}", state, report)
    output.document(app, {"model": settings.name, "dry_run": False, "imported": answers})
    output.say(app, f"{count(len(answers), 'version')} of {settings.name} imported")
    return max(codes)


@dataclass(frozen=True, slots=True)
class _Source:
    """States, notes on what was passed over, and what gives the folder of a state."""

    states: Sequence[PastState]
    notes: Sequence[str]
    opened: Callable[[PastState], AbstractContextManager[Path]]


def _folders(model: ModelSettings, folder: Path, pattern: str, own: Scratch) -> _Source:
    from backupd.operations.forget import zone_of
    from backupd.operations.importing import folder_of
    from backupd.operations.past import find_states

    states, notes = find_states(folder, pattern, model=model.name, zone=zone_of(model))
    return _Source(states, notes, lambda state: folder_of(state, own, called=model.name))


def _restic(
    model: ModelSettings,
    repository: ResticRepository,
    own: Scratch,
    stop: Event,
    *,
    path: str,
    host: str,
    tags: Sequence[str],
) -> _Source:
    from backupd.operations.importing import restored

    states, found = repository.states(path=path, host=host, tags=tags, default_path=str(model.path))
    return _Source(states, (), lambda state: restored(state, repository, found, own, stop))


def _refuse_beside_daemon(state_dir: Path) -> None:
    """A snapshot of the present in the middle of the past would end the import."""
    from backupd.daemon.client import DaemonAbsentError, status

    try:
        status(state_dir)
    except DaemonAbsentError:
        return
    raise errors.BackupdError(
        "the daemon runs, and may take a snapshot of the present in the middle of the past",
        hint="stop it for as long as the import takes: systemctl stop backupd",
    )


def _say_plan(app: App, model: ModelSettings, states: Sequence[PastState]) -> None:
    output.document(
        app,
        {
            "model": model.name,
            "dry_run": True,
            "states": [
                {
                    "source": state.source,
                    "time": utc_time(state.time),
                    "version": state.version or None,
                    "step": state.step,
                    "labels": dict(state.labels),
                }
                for state in states
            ],
        },
    )
    rows = [
        (
            local_time(state.time),
            printable(state.source),
            f"v{state.version}" if state.version else "",
            "" if state.step is None else f"{state.step:,}",
        )
        for state in states
    ]
    output.table(app, _COLUMNS, rows)
    output.say(app, f"\nwould import {count(len(states), 'state')}; nothing was done")


def _say_done(app: App, which: str, state: PastState, report: SnapshotReport) -> None:
    info = report.snapshot
    if info is None:
        return
    output.say(
        app,
        f"{which}: {printable(state.source)} of {local_time(state.time)} -> {info.name},"
        f" {size(info.added_bytes)} new, stored as {size(info.stored_bytes)}",
    )
    for result in report.targets:
        if result.error:
            output.warn(app, f"{info.name} is not on {result.target}: {printable(result.error)}")
    for line in report.notes:
        output.note(app, printable(line))
