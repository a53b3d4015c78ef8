"""`check`: is all of it there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from backupd import errors
from backupd.cli import documents, output
from backupd.cli.app import App
from backupd.cli.command import command
from backupd.cli.commands.snapshot import combined
from backupd.cli.formatting import count, listing, printable, size
from backupd.cli.one_by_one import one_by_one
from backupd.cli.opening import chosen_targets, opened
from backupd.cli.parameters import percent, repository_option, target_option
from backupd.cli.stopping import stop_on_signal

if TYPE_CHECKING:
    from backupd.operations.reports import CheckReport, Finding

_SHOWN = 20


@command(
    "check",
    exits=(
        errors.EXIT_FAILED,
        errors.EXIT_PARTIAL,
        errors.EXIT_NOT_FOUND,
        errors.EXIT_TARGET,
        errors.EXIT_KEY,
        errors.EXIT_DAMAGED,
    ),
    examples=(
        ("backupd check", "is everything there that the snapshots need"),
        ("backupd check --read-data", "opens and compares every byte that is stored"),
        ("backupd check --read-data 5%", "a twentieth of them, another one each time"),
    ),
)
@click.option(
    "--read-data",
    "read_data",
    metavar="[PERCENT]",
    type=percent,
    is_flag=False,
    flag_value="100",
    default=None,
    help="Read the data too and compare it, or so many percent of it.",
)
@target_option("Only this target; give it again for one more.", multiple=True)
@repository_option
@click.pass_obj
def check_command(
    app: App, read_data: float | None, target: tuple[str, ...], repository: str
) -> int:
    """Verify that every snapshot can be given back.

    Each finding says what it means for which snapshot. Nothing is changed. The exit code is
    7 when something that a snapshot needs is missing or damaged; what costs only time, such
    as an index that will be rebuilt, is named and harmless.
    """
    from backupd.operations.check import check

    def tell(report: CheckReport) -> tuple[dict[str, Any], int]:
        _say_check(app, report)
        code = errors.EXIT_DONE if report.clean else errors.EXIT_DAMAGED
        return documents.check_report(report), code

    with opened(app, repository, quickly=True) as installation, stop_on_signal() as stop:
        names = chosen_targets(installation, target)
        answers, codes = one_by_one(
            app,
            names,
            lambda name, progress: check(
                installation, name, read_data_percent=read_data, progress=progress, stop=stop
            ),
            tell,
        )
    output.document(app, {"clean": not any(codes), "targets": answers})
    # Damage is what a caller of check has to hear of, whatever else happened.
    return errors.EXIT_DAMAGED if errors.EXIT_DAMAGED in codes else combined(codes)


def _say_check(app: App, report: CheckReport) -> None:
    grave = [finding for finding in report.findings if not finding.harmless]
    minor = [finding for finding in report.findings if finding.harmless]
    read = f", {size(report.read_bytes)} read" if report.read_bytes else ""
    looked_at = (
        f"{count(report.snapshots, 'snapshot')}, {count(report.packs, 'pack')},"
        f" {count(report.blobs, 'blob')}{read}"
    )
    verdict = "everything is there" if not grave else f"{count(len(grave), 'finding')}"
    line = f"{report.target}: {looked_at}: {verdict}"
    if grave:
        output.result(app, line)
    else:
        output.say(app, line)
    for finding in grave if app.verbose else grave[:_SHOWN]:
        _say_finding(app, finding)
    if len(grave) > _SHOWN and not app.verbose:
        output.result(app, f"  and {len(grave) - _SHOWN:,} more, which -v shows")
    for finding in minor:
        output.note(app, f"{finding.object_name}: {printable(finding.problem)} (harmless)")


def _say_finding(app: App, finding: Finding) -> None:
    prefix = click.style("damaged:", fg="red", bold=True)
    output.result(app, f"  {prefix} {finding.object_name}: {printable(finding.problem)}")
    if finding.snapshots:
        output.result(app, f"    hurts {listing(finding.snapshots, 8)}")
    if finding.files:
        output.result(app, f"    in {listing(finding.files, 8)}")
