"""`snapshot` and `label`: a version now, and what it is called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from backupd import errors
from backupd.cli import completion, documents, output
from backupd.cli.app import App
from backupd.cli.code import say_findings
from backupd.cli.command import command
from backupd.cli.errors import error_document, explain
from backupd.cli.formatting import count, pairs, printable, size, span
from backupd.cli.one_by_one import one_by_one
from backupd.cli.opening import chosen_models, load_settings, opened
from backupd.cli.parameters import mapping, metric, pair, snapshot_argument
from backupd.cli.progress import shown_progress
from backupd.cli.stopping import stop_on_signal
from backupd.policy.schemes import EVERYTHING, SCHEMES

if TYPE_CHECKING:
    from backupd.config.settings import ModelSettings
    from backupd.daemon.wire import SnapshotResult
    from backupd.operations.progress import Progress
    from backupd.operations.reports import SnapshotReport


_NAMED_FILES = 20


@command(
    "snapshot",
    exits=(
        errors.EXIT_FAILED,
        errors.EXIT_PARTIAL,
        errors.EXIT_NOT_FOUND,
        errors.EXIT_TARGET,
        errors.EXIT_KEY,
        errors.EXIT_DAMAGED,
    ),
    examples=(
        ("backupd snapshot", "one snapshot of every model that has changed"),
        (
            "backupd snapshot llama-ft --label release=1.0 --metric eval_loss=1.84",
            "one of this model, under a label and with a metric",
        ),
        ("backupd snapshot llama-ft --scheme params", "of its weights alone"),
        ("backupd snapshot llama-ft --wait", "where the daemon runs: until it is stored"),
    ),
)
@click.argument("models", metavar="[MODEL]...", nargs=-1, shell_complete=completion.complete_models)
@click.option(
    "--label",
    "labels",
    metavar="KEY=VALUE",
    type=pair,
    multiple=True,
    help="A label of the snapshot; give it again for one more.",
)
@click.option(
    "--metric",
    "metrics",
    metavar="KEY=NUMBER",
    type=metric,
    multiple=True,
    help="A metric of the snapshot, which `keep_best` and MODEL@best look at.",
)
@click.option(
    "--scheme",
    metavar="SCHEME",
    type=click.Choice(list(SCHEMES)),
    help="Keep this part of the folder: model, params, model+params, code+params, everything."
    " Without it the model's own.",
)
@click.option(
    "--step",
    metavar="N",
    type=click.IntRange(min=0),
    help="The step that the training stands at, which `show` tells.",
)
@click.option(
    "--now",
    is_flag=True,
    help="Do not wait for files that are being written; what is not whole is named.",
)
@click.option(
    "--wait", is_flag=True, help="Where the daemon takes it: end when it is stored, not queued."
)
@click.pass_obj
def snapshot_command(
    app: App,
    models: tuple[str, ...],
    labels: Sequence[tuple[str, str]],
    metrics: Sequence[tuple[str, float]],
    scheme: str | None,
    step: int | None,
    now: bool,
    wait: bool,
) -> int:
    """Take one snapshot now of each MODEL, or of all of them.

    A model in which nothing has changed gets none, and that is said. Only what is new is
    read and stored. A checkpoint that is being written is waited for, for as long as the
    model's `settle` says; what is not whole then is named, and kept as the snapshot before
    has it. Where the daemon runs it is asked to take the snapshot, so that it
    queues with the scheduled ones; without it the command does the work itself.
    """
    from backupd.daemon.client import DaemonAbsentError

    label_map, metric_map = mapping(labels, "label"), mapping(metrics, "metric")
    # The quick way, as of an unchanged model's snapshot half the time would be reading YAML.
    settings = load_settings(app, quickly=True)
    chosen = chosen_models(settings, models)
    if scheme:
        chosen = [replace(model, scheme=scheme) for model in chosen]
    names = [model.name for model in chosen]
    try:
        return _ask_daemon(
            app,
            settings.state_dir,
            names,
            label_map,
            metric_map,
            scheme=scheme or "",
            step=step,
            now=now,
            wait=wait,
        )
    except DaemonAbsentError:
        return take_snapshots(app, chosen, label_map, metric_map, step=step, now=now, quickly=True)


def _ask_daemon(
    app: App,
    state_dir: Path,
    models: Sequence[str],
    labels: Mapping[str, str],
    metrics: Mapping[str, float],
    *,
    scheme: str,
    step: int | None,
    now: bool,
    wait: bool,
) -> int:
    """Snapshots by the daemon; returns the exit code. Raises `DaemonAbsentError`."""
    from backupd.daemon import client

    with shown_progress(app) as progress:
        results = client.snapshot(
            state_dir,
            models,
            labels=labels,
            metrics=metrics,
            scheme=scheme,
            step=step,
            now=now,
            wait=wait,
            on_event=RelayedProgress(progress),
        )
    queued = [result.model for result in results if result.state == "pending"]
    if queued:
        output.say(app, f"queued by the daemon: {', '.join(queued)}; `backupd status` shows it")
    answers: list[dict[str, Any]] = []
    for result in results:
        if result.report is not None:
            say_report(app, result.report)
            answers.append(documents.snapshot_report(result.report))
        elif result.error:
            error = errors.BackupdError(result.error, hint=result.hint)
            # Its class did not travel; its exit code did.
            error.exit_code = result.exit_code
            if len(results) == 1:
                raise error
            output.warn(app, f"{result.model}: {result.error}")
            answers.append({"model": result.model, **error_document(explain(error))})
    output.document(app, {"queued": queued, "snapshots": answers})
    return combined([_code(result) for result in results])


def _code(result: SnapshotResult) -> int:
    if result.report is not None and result.report.partial:
        return errors.EXIT_PARTIAL
    return result.exit_code


class RelayedProgress:
    """The daemon's events, which tell how far a job is, as `Progress`, which adds up."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._phase = ("", "")
        self._done_bytes = 0
        self._total_bytes = 0
        self._items = 0

    def __call__(self, event: Mapping[str, Any]) -> None:
        """One event; what is not understood is passed over."""
        if event.get("event") == "note":
            self._progress.note(str(event.get("message", "")))
        elif event.get("event") == "progress":
            self._advance(event)

    def _advance(self, event: Mapping[str, Any]) -> None:
        phase = (str(event.get("model", "")), str(event.get("phase", "")))
        done, total, items = (
            int(event.get(name) or 0) for name in ("done_bytes", "total_bytes", "items")
        )
        if phase != self._phase or done < self._done_bytes:
            self._phase = phase
            self._done_bytes = self._total_bytes = self._items = 0
            self._progress.begin(phase[1] or str(event.get("state", "")))
        if total > self._total_bytes:
            self._progress.grow(total - self._total_bytes)
            self._total_bytes = total
        self._progress.advance(done - self._done_bytes, max(0, items - self._items))
        self._done_bytes, self._items = done, items


def take_snapshots(
    app: App,
    models: Sequence[ModelSettings],
    labels: Mapping[str, str],
    metrics: Mapping[str, float],
    *,
    step: int | None = None,
    now: bool = False,
    quickly: bool = False,
) -> int:
    """One snapshot of each model, by this process; returns the exit code.

    A model that fails does not keep the others from theirs. `quickly` is as in `load_settings`.
    """
    from backupd.capture.settle import asked_rules, immediate_rules
    from backupd.operations.settle_plan import Settling
    from backupd.operations.snapshot import take_snapshot

    rules = immediate_rules if now else asked_rules
    by_name = {model.name: model for model in models}

    def tell(report: SnapshotReport) -> tuple[dict[str, Any], int]:
        say_report(app, report)
        code = errors.EXIT_PARTIAL if report.partial else errors.EXIT_DONE
        return documents.snapshot_report(report), code

    with opened(app, quickly=quickly) as installation, stop_on_signal() as stop:
        answers, codes = one_by_one(
            app,
            [model.name for model in models],
            lambda name, progress: take_snapshot(
                installation,
                by_name[name],
                labels=labels,
                metrics=metrics,
                step=step,
                settling=Settling(rules(by_name[name].settle_seconds)),
                progress=progress,
                stop=stop,
            ),
            tell,
            kind="model",
        )
    output.document(app, {"queued": [], "snapshots": answers})
    return combined(codes)


def combined(codes: Sequence[int]) -> int:
    """The exit code of several parts: theirs where they agree, else "done in part"."""
    distinct = set(codes)
    if len(distinct) <= 1:
        return codes[0] if codes else errors.EXIT_DONE
    if distinct & {errors.EXIT_DONE, errors.EXIT_PARTIAL}:
        return errors.EXIT_PARTIAL
    return errors.EXIT_FAILED


def say_report(app: App, report: SnapshotReport) -> None:
    """What became of one model, with each thing that is missing."""
    info = report.snapshot
    if report.unchanged or info is None:
        copied = dict.fromkeys(
            result.target for result in report.targets if result.version and not result.error
        )
        also = f"; what {', '.join(copied)} lacked was copied" if copied else ""
        output.say(app, f"{report.model}: unchanged{also}")
    else:
        told = (info.scheme if info.scheme != EVERYTHING else "", pairs(info.labels))
        named = f" ({'; '.join(filter(None, told))})" if any(told) else ""
        output.say(
            app,
            f"{info.name}{named}: {count(info.file_count, 'file')}, {size(info.size_bytes)}",
        )
        output.say(
            app,
            f"  {size(info.added_bytes)} new, stored as {size(info.stored_bytes)}"
            f" on {_places(report)} in {span(info.duration_seconds)}",
        )
        say_findings(app, info.findings)
    pending = [result.target for result in report.targets if result.pending]
    if pending:
        output.say(app, f"  the daemon copies it to {', '.join(pending)}")
    for line in report.incomplete[:_NAMED_FILES]:
        output.warn(app, f"{report.model} is incomplete: {printable(line)}")
    if len(report.incomplete) > _NAMED_FILES:
        more = len(report.incomplete) - _NAMED_FILES
        output.warn(app, f"{report.model} is incomplete: {count(more, 'file')} more")
    for result in report.targets:
        if result.error:
            output.warn(app, f"{report.model} is not on {result.target}: {printable(result.error)}")
    for line in report.notes:
        if line not in report.incomplete:
            output.note(app, printable(line))


def _places(report: SnapshotReport) -> str:
    there = [r.target for r in report.targets if not r.error and not r.pending]
    return ", ".join(dict.fromkeys(there)) or "no target"


@command(
    "label",
    exits=(errors.EXIT_NOT_FOUND, errors.EXIT_TARGET, errors.EXIT_KEY, errors.EXIT_DAMAGED),
    examples=(
        ("backupd label llama-ft@v12 release=1.0", "`llama-ft@release` now names it"),
        ("backupd label llama-ft@v12 --remove release", "and now no longer"),
    ),
)
@snapshot_argument
@click.argument("labels", metavar="[KEY=VALUE]...", nargs=-1, type=pair)
@click.option(
    "--remove", metavar="KEY", multiple=True, help="Take this label off; give it again for more."
)
@click.pass_obj
def label_command(
    app: App, snapshot: str, labels: Sequence[tuple[str, str]], remove: tuple[str, ...]
) -> None:
    """Put labels on a snapshot, or take them off.

    A label names a snapshot (`MODEL@KEY`), and a policy's `keep_labels` keeps what carries
    it. Setting a label that is there replaces its value.
    """
    from backupd.operations.catalog import set_labels
    from backupd.operations.resolve import resolve

    changes: dict[str, str | None] = mapping(labels, "label")
    for key in remove:
        if key in changes:
            raise click.UsageError(f"the label {key!r} is both set and removed")
        changes[key] = None
    if not changes:
        raise click.UsageError("there is no label to set or to remove; write KEY=VALUE")
    with opened(app) as installation:
        info = set_labels(installation, resolve(installation, snapshot), changes)
    output.document(app, {"snapshot": documents.snapshot(info)})
    output.say(app, f"{info.name}: {pairs(info.labels) or 'no labels'}")
