"""`export`: snapshots as tar archives or plain folders."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from backupd import errors
from backupd.cli import completion, documents, output
from backupd.cli.app import App
from backupd.cli.code import say_findings
from backupd.cli.command import command
from backupd.cli.formatting import count, printable, size
from backupd.cli.opening import opened
from backupd.cli.parameters import dry_run_option, repository_option, target_option
from backupd.cli.progress import shown_progress
from backupd.cli.stopping import stop_on_signal

if TYPE_CHECKING:
    from backupd.operations.catalog import ResolvedSnapshot
    from backupd.operations.installation import Installation


@command(
    "export",
    exits=(
        errors.EXIT_FAILED,
        errors.EXIT_PARTIAL,
        errors.EXIT_NOT_FOUND,
        errors.EXIT_TARGET,
        errors.EXIT_KEY,
        errors.EXIT_DAMAGED,
    ),
    examples=(
        ("backupd export llama-ft@v12 -o llama.tar.zst", "one archive, as any tar reads it"),
        ("backupd export llama-ft --all -o /mnt/share", "a folder a version, by the layout"),
        (
            "backupd export llama-ft@best -o out --layout"
            ' "{project_name}/{date}/{model}/{model_name}_{YYYYMMDD}_v{version}{ext}"',
            "a path of one's own",
        ),
        ("backupd export llama-ft@v12 -o - | ssh box2 tar x", "to another box, through a pipe"),
    ),
)
@click.argument(
    "snapshots",
    metavar="SNAPSHOT...",
    nargs=-1,
    required=True,
    shell_complete=completion.complete_snapshots,
)
@click.option(
    "-o",
    "--output",
    "place",
    metavar="PLACE",
    required=True,
    help="A file that ends in .tar or .tar.zst, a folder, or - for standard output.",
)
@click.option("--all", "every", is_flag=True, help="Every snapshot of the models named.")
@click.option(
    "--layout",
    metavar="TEMPLATE",
    default="",
    help="Where each goes below PLACE, or in the archive. Without it the configuration's.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["tree", "tar", "tar.zst"]),
    help="In a folder: a folder a snapshot (tree, without it), or an archive each.",
)
@target_option("Read from this target, not from the nearest.")
@dry_run_option
@repository_option
@click.pass_obj
def export_command(
    app: App,
    snapshots: tuple[str, ...],
    place: str,
    every: bool,
    layout: str,
    form: str | None,
    target: str,
    dry_run: bool,
    repository: str,
) -> None:
    """Give SNAPSHOTs to those who have no backupd: as tar archives or as folders.

    An archive is a pax tar with times to the nanosecond, owners, extended attributes, links
    and holes; it is written beside its place, read back and then renamed. A folder is made
    as `restore` makes it. Where PLACE is a folder, each snapshot gets its path in it from
    --layout, of the words that docs/versions.md lists; one that ends in / is a folder, in
    which the snapshot has its name. {ext} becomes .tar or .tar.zst; of a folder with one file
    in it the ending of that file, which then is exported under this very name.

    `backupd help snapshots` tells how a SNAPSHOT is named.
    """
    from backupd.operations.export import STDOUT, export, plan_export

    to_stdout = place == "-"
    if to_stdout and sys.stdout.isatty():
        raise click.UsageError("an archive is no sight for a terminal; send it through a pipe")
    if to_stdout and app.json:
        raise click.UsageError("standard output is the archive's, so --json has no place there")
    with opened(app, repository, quickly=True) as installation:
        resolved = _chosen(installation, snapshots, every=every, target=target)
        output_path = STDOUT if to_stdout else Path(place)
        plan = plan_export(installation, resolved, output_path, form=form or "", layout=layout)
        total_bytes = 0
        if not dry_run:
            with stop_on_signal() as stop, shown_progress(app) as progress:
                for planned in plan:
                    total_bytes += export(
                        installation,
                        planned,
                        layout=layout,
                        stdout=sys.stdout.buffer if to_stdout else None,
                        progress=progress,
                        stop=stop,
                    )
    if to_stdout:
        return
    output.document(
        app,
        {
            "dry_run": dry_run,
            "exported": [
                {
                    "place": documents.text(str(made.place)),
                    "form": made.form,
                    "snapshots": [documents.snapshot(each.info) for each in made.snapshots],
                }
                for made in plan
            ],
        },
    )
    for each in resolved:
        say_findings(app, each.info.findings)
    for made in plan:
        names = ", ".join(each.info.name for each in made.snapshots)
        output.say(app, f"{names} -> {printable(str(made.place))}")
    done = "nothing was written" if dry_run else f"{size(total_bytes)}, verified"
    output.say(app, f"{count(len(resolved), 'snapshot')}, {done}")


def _chosen(
    installation: Installation, texts: Sequence[str], *, every: bool, target: str
) -> list[ResolvedSnapshot]:
    from backupd.operations.catalog import read_catalog
    from backupd.operations.resolve import resolve

    if not every:
        return [resolve(installation, text, target=target) for text in texts]
    catalog = read_catalog(installation, targets=[target] if target else None)
    chosen = []
    for text in texts:
        newest = resolve(installation, text, target=target).info
        chosen += [
            each
            for each in catalog.snapshots
            if (each.info.host, each.info.model) == (newest.host, newest.model)
        ]
    return chosen
