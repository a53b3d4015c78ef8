"""`switch`: a model's folder becomes one of its versions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from backupd import errors
from backupd.cli import completion, documents, output
from backupd.cli.app import App
from backupd.cli.code import say_findings
from backupd.cli.command import command
from backupd.cli.formatting import count, printable, size
from backupd.cli.opening import chosen_models, opened
from backupd.cli.parameters import dry_run_option, target_option
from backupd.cli.progress import shown_progress
from backupd.cli.stopping import stop_on_signal

if TYPE_CHECKING:
    from backupd.operations.local_files import Taken
    from backupd.operations.switch import SwitchReport
    from backupd.operations.switch_plan import SwitchPlan


@command(
    "switch",
    exits=(
        errors.EXIT_FAILED,
        errors.EXIT_NOT_FOUND,
        errors.EXIT_TARGET,
        errors.EXIT_KEY,
        errors.EXIT_DAMAGED,
    ),
    examples=(
        ("backupd switch llama-ft v12", "the folder is version 12 from now on"),
        ("backupd switch llama-ft best --dry-run", "what that would fetch, keep and take away"),
        ("backupd switch llama-ft --undo", "and it is again what it was before"),
    ),
)
@click.argument("model", shell_complete=completion.complete_models)
@click.argument("version", required=False, default="", shell_complete=completion.complete_versions)
@click.option("--undo", is_flag=True, help="Go back to what the folder was before the last switch.")
@click.option(
    "--force",
    is_flag=True,
    help="Also while a process writes to the folder, or where part of it could not be saved.",
)
@target_option("Take the version from this target.")
@dry_run_option
@click.pass_obj
def switch_command(
    app: App, model: str, version: str, undo: bool, force: bool, target: str, dry_run: bool
) -> None:
    """Make the folder of MODEL be VERSION, in one step.

    The present state is snapshot first, where it is not a version already. The version is
    built beside the folder, from the files that are there where their content is right and
    else from a target, and then takes the folder's place at once: whoever looks sees the one
    or the other, also after a crash. What no snapshot keeps, such as excluded files, stays.
    The next snapshot has VERSION as its parent, so that the history branches there.

    VERSION is v12, 12, latest, best, a date, a label, or any name of a snapshot.
    """
    from backupd.operations.switch import find_version, switch, undone_version

    if undo == bool(version):
        raise click.UsageError("give either a VERSION or --undo")
    with opened(app) as installation, stop_on_signal() as stop:
        [settings] = chosen_models(installation.settings, (model,))
        if undo:
            wanted = undone_version(installation, settings, target=target)
        else:
            wanted = find_version(installation, settings, version, target=target)
        if dry_run:
            from backupd.operations.switch_plan import plan_switch

            _say_plan(app, plan_switch(installation, settings, wanted))
            return
        with shown_progress(app) as progress:
            report = switch(
                installation, settings, wanted, force=force, progress=progress, stop=stop
            )
    _say(app, report)


def _say(app: App, report: SwitchReport) -> None:
    output.document(
        app,
        {
            "model": report.model,
            "version": documents.snapshot(report.version),
            "saved": documents.snapshot(report.saved) if report.saved else None,
            "saved_anew": report.saved_anew,
            "already": report.already,
            **{
                name: {"files": taken.files, "size_bytes": taken.size_bytes}
                for name, taken in _parts(report)
            },
            "carried": report.carried,
            "notes": list(report.notes),
        },
    )
    if report.already:
        output.say(app, f"{report.model} is {report.version.name} already")
        return
    if report.saved is not None:
        how = "is saved as" if report.saved_anew else "is"
        output.say(app, f"what the folder was {how} {report.saved.name}")
    output.say(app, f"{report.model} is now {report.version.name}")
    told = [
        f"{count(t.files, 'file')} {name} ({size(t.size_bytes)})"
        for name, t in _parts(report)
        if t.files
    ]
    output.say(app, f"  {', '.join(told)}")
    if report.carried:
        output.say(app, f"  {count(report.carried, 'path')} that no snapshot keeps stayed")
    for line in report.notes:
        output.note(app, printable(line))
    if report.version.incomplete:
        output.warn(
            app,
            f"{report.version.name} was taken without"
            f" {count(len(report.version.incomplete), 'file')}; `backupd show` names them",
        )
    say_findings(app, report.version.findings)


def _parts(report: SwitchReport) -> list[tuple[str, Taken]]:
    return [("shared", report.shared), ("copied", report.copied), ("fetched", report.fetched)]


def _say_plan(app: App, plan: SwitchPlan) -> None:
    document: dict[str, Any] = {"version": plan.version.name, "dry_run": True}
    for action, paths in plan.paths.items():
        document[action] = [documents.text(path) for path in paths]
    output.document(app, {**document, "fetched_bytes": plan.fetched_bytes})
    for action, paths in plan.paths.items():
        shown = paths if app.verbose or action != "same" else ()
        for path in shown:
            output.result(app, f"{action:<8}  {printable(path)}")
    told = ", ".join(f"{len(paths):,} {action}" for action, paths in plan.paths.items() if paths)
    output.say(app, f"{plan.version.name}: {told}; {size(plan.fetched_bytes)} differ")
