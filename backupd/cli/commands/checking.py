"""`check` and `sync`: is all of it there, and is all of it everywhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from backupd import errors
from backupd.cli import completion, documents, output
from backupd.cli.app import App
from backupd.cli.command import command
from backupd.cli.commands.snapshot import combined
from backupd.cli.errors import error_document, explain
from backupd.cli.formatting import count, listing, printable, size
from backupd.cli.opening import chosen_models, chosen_targets, known_name, opened
from backupd.cli.parameters import percent, repository_option, target_option
from backupd.cli.progress import shown_progress
from backupd.cli.stopping import stop_on_signal

if TYPE_CHECKING:
    from backupd.config.settings import ModelSettings
    from backupd.operations.reports import CheckReport, Finding, TargetResult

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

    answers: list[dict[str, Any]] = []
    codes: list[int] = []
    with opened(app, repository, quickly=True) as installation, stop_on_signal() as stop:
        names = chosen_targets(installation, target)
        for name in names:
            try:
                with shown_progress(app) as progress:
                    report = check(
                        installation,
                        name,
                        read_data_percent=read_data,
                        progress=progress,
                        stop=stop,
                    )
            except errors.StoppedError:
                raise
            except errors.BackupdError as error:
                if len(names) == 1:
                    raise
                output.warn(app, f"{name}: {error}")
                answers.append({"target": name, **error_document(explain(error))})
                codes.append(error.exit_code)
                continue
            answers.append(documents.check_report(report))
            codes.append(errors.EXIT_DONE if report.clean else errors.EXIT_DAMAGED)
            _say_check(app, report)
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


@command(
    "sync",
    exits=(
        errors.EXIT_FAILED,
        errors.EXIT_PARTIAL,
        errors.EXIT_NOT_FOUND,
        errors.EXIT_TARGET,
        errors.EXIT_KEY,
        errors.EXIT_DAMAGED,
    ),
    examples=(
        ("backupd sync", "every target gets what it lacks of its models"),
        ("backupd sync --to nas", "the NAS, when it is back"),
        ("backupd sync llama-ft --from disk --to s3", "one model, from here to there"),
    ),
)
@click.argument("models", metavar="[MODEL]...", nargs=-1, shell_complete=completion.complete_models)
@target_option(
    "Copy from this target; without it, from each that is reachable.",
    name="--from",
    variable="source",
)
@target_option("Copy to this target; without it, to each.", name="--to", variable="destination")
@click.pass_obj
def sync_command(app: App, models: tuple[str, ...], source: str, destination: str) -> int:
    """Bring targets up to date with each other.

    Snapshots that a target lacks are copied as they are stored, without being opened. Where
    two targets hold different snapshots under one version, both are kept: the later one
    takes the next free number, and that is said.
    """
    from backupd.operations.replicate import replicate

    answers: list[dict[str, Any]] = []
    codes: list[int] = []
    with opened(app) as installation, stop_on_signal() as stop:
        chosen = chosen_models(installation.settings, models)
        known = installation.settings.targets
        sources = [known_name(source, known, "target")] if source else list(known)
        destinations = [known_name(destination, known, "target")] if destination else list(known)
        pairs = [
            (giver, taker)
            for taker in destinations
            for giver in sources
            if giver != taker and _shared(chosen, giver, taker)
        ]
        if not pairs:
            raise errors.UsageError(
                "there is nothing to copy between",
                hint="a model must name both targets, and the two must differ",
            )
        away: dict[str, errors.BackupdError] = {}
        installation.repositories({name for pair in pairs for name in pair}, failed=away)
        for name in (source, destination):
            if name in away:
                raise away[name]
        for error in away.values():
            output.warn(app, f"left out: {error}")
            codes.append(error.exit_code)
        for giver, taker in pairs:
            if giver in away or taker in away:
                unreached = away.get(taker) or away[giver]
                answers.append({"from": giver, "to": taker, **error_document(explain(unreached))})
                continue
            try:
                with shown_progress(app) as progress:
                    results = replicate(
                        installation,
                        giver,
                        taker,
                        models=_shared(chosen, giver, taker),
                        progress=progress,
                        stop=stop,
                    )
            except errors.StoppedError:
                raise
            except errors.BackupdError as error:
                if len(pairs) == 1:
                    raise
                output.warn(app, f"{giver} to {taker}: {error}")
                answers.append({"from": giver, "to": taker, **error_document(explain(error))})
                codes.append(error.exit_code)
                continue
            answers.append(_sync_document(giver, taker, results))
            failed = [result for result in results if result.error]
            codes.append(errors.EXIT_PARTIAL if failed else errors.EXIT_DONE)
            _say_sync(app, giver, taker, results)
    output.document(app, {"copies": answers})
    return combined(codes)


def _shared(models: Sequence[ModelSettings], source: str, destination: str) -> list[str]:
    """The models that the configuration gives to both targets."""
    return [
        model.name for model in models if source in model.targets and destination in model.targets
    ]


def _sync_document(source: str, destination: str, results: list[TargetResult]) -> dict[str, Any]:
    return {
        "from": source,
        "to": destination,
        "snapshots": [documents.target_result(result) for result in results],
        "error": None,
    }


def _say_sync(app: App, source: str, destination: str, results: list[TargetResult]) -> None:
    copied = [result for result in results if not result.error]
    if not results:
        output.say(app, f"{source} to {destination}: nothing was missing")
        return
    stored = sum(result.stored_bytes for result in copied)
    output.say(
        app, f"{source} to {destination}: copied {count(len(copied), 'snapshot')}, {size(stored)}"
    )
    for result in results:
        if result.error:
            output.warn(app, f"v{result.version} on {destination}: {printable(result.error)}")
