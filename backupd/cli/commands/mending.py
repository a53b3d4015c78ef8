"""`repair` and `drill`: what is damaged is mended; what is stored is given back for practice."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from backupd import errors
from backupd.cli import completion, documents, output
from backupd.cli.app import App
from backupd.cli.command import command
from backupd.cli.commands.snapshot import combined
from backupd.cli.formatting import count, listing, printable
from backupd.cli.one_by_one import one_by_one
from backupd.cli.opening import chosen_targets, known_name, opened
from backupd.cli.parameters import dry_run_option, percent, target_option
from backupd.cli.progress import shown_progress
from backupd.cli.stopping import stop_on_signal

if TYPE_CHECKING:
    from backupd.operations.reports import DrillReport, RepairReport

_SHOWN = 20
_WORDS = {
    "replace": ("put right", "would be put right"),
    "store": ("stored anew", "would be stored anew"),
    "rewrite": ("left to prune", "would be left to prune"),
    "index": ("written anew", "would be written anew"),
    "drop": ("dropped", "would be dropped"),
}


@command(
    "repair",
    exits=(
        errors.EXIT_FAILED,
        errors.EXIT_PARTIAL,
        errors.EXIT_TARGET,
        errors.EXIT_KEY,
        errors.EXIT_DAMAGED,
    ),
    examples=(
        ("backupd repair --dry-run", "what is damaged, and who has it"),
        ("backupd repair --target nas", "mend the NAS from the other targets and the models"),
        ("backupd repair --target disk --from s3", "take nothing from anywhere else"),
        ("backupd repair --read-data 5%", "look for damage in a twentieth of the data only"),
    ),
)
@target_option("Mend only this target; give it again for one more.", multiple=True)
@target_option(
    "Take from this target; without it, from each that is reachable.",
    name="--from",
    variable="source",
)
@click.option(
    "--read-data",
    "read_data",
    metavar="PERCENT",
    type=percent,
    default="100",
    help="How much of the data is read to find what is damaged; all of it unless said.",
)
@dry_run_option
@click.pass_obj
def repair_command(
    app: App, target: tuple[str, ...], source: str, read_data: float, dry_run: bool
) -> int:
    """Mend what is damaged, from other targets or the models' folders.

    A pack that another target has comes back as it was. Else what can be had of it, from
    other copies, other targets, and the folders that the snapshots were taken of, is stored
    anew. Everything is opened and compared before it counts, and nothing is deleted but what
    was written anew. What cannot be mended is named with the snapshots and files it hurts;
    the exit code is then 3, and the rest is kept.
    """
    from backupd.operations.repair import repair

    def tell(report: RepairReport) -> tuple[dict[str, Any], int]:
        _say_repair(app, report)
        code = errors.EXIT_PARTIAL if report.lost else errors.EXIT_DONE
        return _repair_document(report), code

    with opened(app) as installation, stop_on_signal() as stop:
        names = chosen_targets(installation, target)
        sources = None
        if source:
            sources = [known_name(source, installation.settings.targets, "target")]
        answers, codes = one_by_one(
            app,
            names,
            lambda name, progress: repair(
                installation,
                name,
                sources=sources,
                read_data_percent=read_data,
                dry_run=dry_run,
                progress=progress,
                stop=stop,
            ),
            tell,
        )
    output.document(app, {"dry_run": dry_run, "targets": answers})
    return combined(codes)


def _say_repair(app: App, report: RepairReport) -> None:
    for note in report.notes:
        output.note(app, printable(note))
    if not report.mended and not report.lost:
        output.say(app, f"{report.target}: nothing is damaged")
        return
    shown = report.mended if app.verbose else report.mended[:_SHOWN]
    for mended in shown:
        source = f" from {mended.source}" if mended.source else ""
        words = _WORDS[mended.verb][report.dry_run]
        output.result(app, f"{report.target}: {words}{source}: {mended.object_name}")
        output.say(app, f"    {printable(mended.reason.removeprefix(mended.object_name).strip())}")
    if len(shown) < len(report.mended):
        output.result(app, f"  and {len(report.mended) - len(shown):,} more, which -v shows")
    for finding in report.lost:
        prefix = click.style("lost:", fg="red", bold=True)
        output.result(
            app, f"{report.target}: {prefix} {finding.object_name}: {printable(finding.problem)}"
        )
        if finding.snapshots:
            output.result(app, f"    hurts {listing(finding.snapshots, 8)}")
        if finding.files:
            output.result(app, f"    in {listing(finding.files, 8)}")
    if report.lost:
        found = count(len(report.lost), "finding")
        output.result(app, f"{report.target}: {found} that nobody can mend; the rest is kept")
    elif not report.dry_run:
        output.say(app, f"{report.target}: everything is there again")


@command(
    "drill",
    exits=(
        errors.EXIT_FAILED,
        errors.EXIT_NOT_FOUND,
        errors.EXIT_TARGET,
        errors.EXIT_KEY,
        errors.EXIT_DAMAGED,
    ),
    examples=(
        ("backupd drill", "some snapshot of some target, drawn anew each time"),
        ("backupd drill llama-ft@latest --target s3", "this one, from there"),
    ),
)
@click.argument(
    "snapshot",
    metavar="[SNAPSHOT]",
    required=False,
    default="",
    shell_complete=completion.complete_snapshots,
)
@target_option("Restore from this target.")
@click.pass_obj
def drill_command(app: App, snapshot: str, target: str) -> int:
    """Restore for practice, and compare.

    A snapshot is restored into a scratch folder below the state folder, each file is compared
    with the hash that was taken of it when it was stored, and with the model's folder where
    that has not changed since. Then the scratch folder is removed. No more is restored than
    `upkeep.drill_size` says and half of the free space holds; what was left out is counted.
    """
    from backupd.operations.drill import drill

    with opened(app) as installation, stop_on_signal() as stop, shown_progress(app) as progress:
        name = known_name(target, installation.settings.targets, "target") if target else ""
        report = drill(installation, snapshot, target=name, progress=progress, stop=stop)
    output.document(app, _drill_document(report))
    left_out = f", {count(report.left_out, 'file')} left out" if report.left_out else ""
    verdict = "all as it was stored" if report.clean else f"{len(report.failed)} failed"
    output.result(
        app,
        f"{report.snapshot} from {report.target}: {count(report.files, 'file')} restored and"
        f" compared, {count(report.live_files, 'file')} with the model's folder{left_out}:"
        f" {verdict}",
    )
    for path, why in list(report.failed.items())[: None if app.verbose else _SHOWN]:
        output.result(app, f"  {printable(path)}: {printable(why)}")
    return errors.EXIT_DONE if report.clean else errors.EXIT_DAMAGED


def _repair_document(report: RepairReport) -> dict[str, Any]:
    """The end of one repair of one target."""
    return {
        "target": report.target,
        "mended": [
            {"object": m.object_name, "verb": m.verb, "from": m.source, "reason": m.reason}
            for m in report.mended
        ],
        "lost": [documents.finding(found) for found in report.lost],
        "notes": list(report.notes),
        "error": None,
    }


def _drill_document(report: DrillReport) -> dict[str, Any]:
    """The end of one drill."""
    return {
        "snapshot": report.snapshot,
        "target": report.target,
        "clean": report.clean,
        "files": report.files,
        "size_bytes": report.size_bytes,
        "left_out": report.left_out,
        "live_files": report.live_files,
        "failed": [{"path": path, "why": why} for path, why in report.failed.items()],
        "duration_seconds": round(report.duration_seconds, 3),
    }
