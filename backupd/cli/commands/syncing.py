"""`sync`: is all of it everywhere."""

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
from backupd.cli.formatting import Column, count, local_time, printable, size, utc_time
from backupd.cli.opening import chosen_models, known_name, opened
from backupd.cli.parameters import target_option
from backupd.cli.progress import shown_progress
from backupd.cli.stopping import stop_on_signal

if TYPE_CHECKING:
    import threading

    from backupd.config.settings import ModelSettings
    from backupd.operations.installation import Installation
    from backupd.operations.replicate import OwedSnapshot
    from backupd.operations.reports import TargetResult

_OWED_COLUMNS = (
    Column("SNAPSHOT"),
    Column("DATE"),
    Column("COPIES", right=True),
)


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
        ("backupd sync --to nas --dry-run", "what that would copy, and how much it is"),
        ("backupd sync llama-ft --from disk --to s3", "one model, from here to there"),
        ("backupd sync --everything --from s3 --to new", "all that a target holds, for a move"),
    ),
)
@click.argument("models", metavar="[MODEL]...", nargs=-1, shell_complete=completion.complete_models)
@target_option(
    "Copy from this target; without it, from each that is reachable.",
    name="--from",
    variable="source",
)
@target_option("Copy to this target; without it, to each.", name="--to", variable="destination")
@click.option(
    "--everything",
    is_flag=True,
    help="Also of other hosts, and of models that are not configured.",
)
@click.option("--dry-run", is_flag=True, help="Say what would be copied; change nothing.")
@click.pass_obj
def sync_command(
    app: App,
    models: tuple[str, ...],
    source: str,
    destination: str,
    everything: bool,
    dry_run: bool,
) -> int:
    """Bring targets up to date with each other.

    A target gets each snapshot that another one holds and that its own policy would keep,
    the newest first, as it is stored: nothing is opened, and the models need not be on disk.
    What a policy or a person dropped there does not come back. Interrupted, the next run
    goes on. `limits.upload`, and the `upload` of a target, limit what goes out. Where two
    targets hold different snapshots under one version, both are kept: the later one takes
    the next free number, and that is said.
    """
    answers: list[dict[str, Any]] = []
    codes: list[int] = []
    if everything and models:
        raise click.UsageError("name models, or say --everything")
    with opened(app, quickly=True) as installation, stop_on_signal() as stop:
        chosen = chosen_models(installation.settings, models)
        known = installation.settings.targets
        near = installation.nearest_first(known)
        sources = [known_name(source, known, "target")] if source else near
        destinations = [known_name(destination, known, "target")] if destination else near
        pairs = [
            (giver, taker)
            for taker in destinations
            for giver in sources
            if giver != taker and (everything or _shared(chosen, giver, taker))
        ]
        if not pairs and not (source or destination):
            output.say(app, "every model has one target; there is nothing to copy between")
        elif not pairs:
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
            wanted = None if everything else _shared(chosen, giver, taker)
            try:
                answer, code = _between(app, installation, giver, taker, wanted, stop, dry_run)
            except errors.StoppedError:
                raise
            except errors.BackupdError as error:
                if len(pairs) == 1:
                    raise
                output.warn(app, f"{giver} to {taker}: {error}")
                answer, code = error_document(explain(error)), error.exit_code
            answers.append({"from": giver, "to": taker, **answer})
            codes.append(code)
    output.document(app, {"dry_run": dry_run, "copies": answers})
    return combined(codes)


def _between(
    app: App,
    installation: Installation,
    giver: str,
    taker: str,
    models: Sequence[str] | None,
    stop: threading.Event,
    dry_run: bool,
) -> tuple[dict[str, Any], int]:
    """Copy, or say what would be, from one target to another; the answer and the exit code."""
    from backupd.operations.replicate import plan_replication, replicate

    if dry_run:
        with shown_progress(app) as progress:
            planned = plan_replication(installation, giver, taker, models=models, progress=progress)
        _say_owed(app, giver, taker, planned)
        return {"snapshots": [_owed(one) for one in planned], "error": None}, errors.EXIT_DONE
    with shown_progress(app) as progress:
        results = replicate(installation, giver, taker, models=models, progress=progress, stop=stop)
    _say_copied(app, giver, taker, results)
    failed = any(result.error for result in results)
    answer = {"snapshots": [documents.target_result(one) for one in results], "error": None}
    return answer, errors.EXIT_PARTIAL if failed else errors.EXIT_DONE


def _shared(models: Sequence[ModelSettings], source: str, destination: str) -> list[str]:
    """The models that the configuration gives to both targets."""
    return [
        model.name for model in models if source in model.targets and destination in model.targets
    ]


def _owed(planned: OwedSnapshot) -> dict[str, Any]:
    return {
        "host": planned.host,
        "model": planned.model,
        "version": planned.version,
        "time": utc_time(planned.time),
        "copied_bytes": planned.copied_bytes,
    }


def _say_owed(app: App, source: str, destination: str, planned: Sequence[OwedSnapshot]) -> None:
    if not planned:
        output.say(app, f"{source} to {destination}: nothing is missing")
        return
    total = size(sum(one.copied_bytes for one in planned))
    number = count(len(planned), "snapshot")
    output.say(app, f"{source} to {destination}: {number}, {total} to copy")
    rows = [
        (f"{one.model}@v{one.version}", local_time(one.time), size(one.copied_bytes))
        for one in planned
    ]
    output.table(app, _OWED_COLUMNS, rows)


def _say_copied(app: App, source: str, destination: str, results: list[TargetResult]) -> None:
    for result in results:
        if result.was:
            output.warn(
                app,
                f"{result.model}@v{result.was} on {result.target} is now {result.model}"
                f"@v{result.version}: the other target holds an earlier snapshot under that number",
            )
        elif result.error:
            name = f"{result.model}@v{result.version}"
            output.warn(app, f"{name} is not on {destination}: {printable(result.error)}")
    copied = [result for result in results if not result.error and not result.was]
    if not results:
        output.say(app, f"{source} to {destination}: nothing was missing")
    elif copied:
        stored = size(sum(result.stored_bytes for result in copied))
        number = count(len(copied), "snapshot")
        output.say(app, f"{source} to {destination}: copied {number}, {stored}")
