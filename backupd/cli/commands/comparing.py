"""`diff`: two snapshots compared. Nothing is changed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from backupd import errors
from backupd.cli import completion, documents, output
from backupd.cli.app import App
from backupd.cli.code import say_source
from backupd.cli.command import command
from backupd.cli.formatting import Column, count, local_time, printable, size
from backupd.cli.opening import found_snapshot, opened
from backupd.cli.parameters import repository_option, target_option
from backupd.cli.progress import shown_progress
from backupd.cli.stopping import stop_on_signal

if TYPE_CHECKING:
    from backupd.operations.diff_files import FileChange
    from backupd.operations.diff_numbers import Figures
    from backupd.operations.diff_report import DiffReport, LayerChange, TensorChange
    from backupd.operations.reports import SnapshotInfo

_SHOWN = 20

_FILE_COLUMNS = (
    Column("CHANGE"),
    Column("SIZE", right=True),
    Column("PATH", shrink=30, wrap=True),
    Column("ATTRIBUTES", drop=1),
)
_FIGURE_COLUMNS = (
    Column("CHANGED", right=True),
    Column("MEAN", right=True),
    Column("LARGEST", right=True),
    Column("COSINE", right=True),
)
_METRIC_COLUMNS = (
    Column("METRIC"),
    Column("WAS", right=True),
    Column("IS", right=True),
    Column("CHANGE", right=True),
    Column("", right=True, drop=1),
)
_SETTING_COLUMNS = (
    Column("SETTING", shrink=16, wrap=True),
    Column("WAS", shrink=12, wrap=True),
    Column("IS", shrink=12, wrap=True),
)
_LAYER_COLUMNS = (
    Column("LAYER", shrink=20, wrap=True),
    Column("TENSORS", right=True, drop=1),
    *_FIGURE_COLUMNS,
)
_TENSOR_COLUMNS = (
    Column("TENSOR", shrink=20, wrap=True),
    Column("FILE", shrink=16, wrap=True, drop=2),
    Column("TYPE"),
    Column("SHAPE", drop=1),
    *_FIGURE_COLUMNS,
)


@command(
    "diff",
    exits=(
        errors.EXIT_PARTIAL,
        errors.EXIT_NOT_FOUND,
        errors.EXIT_TARGET,
        errors.EXIT_KEY,
        errors.EXIT_DAMAGED,
    ),
    examples=(
        ("backupd diff llama-ft@v11 llama-ft@v12", "what the last training steps changed"),
        ("backupd diff llama-ft@best llama-ft@latest --tensors --limit 5", "what moved most"),
        ("backupd diff llama-base@latest llama-ft@latest", "two models, also of two hosts"),
        ("backupd diff llama-ft@v1 llama-ft@v2 --files", "files alone, without reading any"),
    ),
)
@click.argument("old", metavar="A", shell_complete=completion.complete_snapshots)
@click.argument("new", metavar="B", shell_complete=completion.complete_snapshots)
@click.option("--files", "only_files", is_flag=True, help="Only the files; no data is read.")
@click.option("--tensors", "only_tensors", is_flag=True, help="Only layers and tensors.")
@click.option(
    "--limit",
    metavar="N",
    type=click.IntRange(min=1),
    help=f"Show at most N of each list, the largest changes first. [default: {_SHOWN}, -v: all]",
)
@target_option("Read from this target, not from the nearest.")
@repository_option
@click.pass_obj
def diff_command(
    app: App,
    old: str,
    new: str,
    only_files: bool,
    only_tensors: bool,
    limit: int | None,
    target: str,
    repository: str,
) -> int:
    """Compare snapshot A with snapshot B: files, settings, tensors, metrics, labels and code.

    A file of the same content under another name is renamed; one that lies in a folder of
    another number, as from checkpoint-500/ to checkpoint-1000/, is moved. A tensor is
    compared with the one of its name in the file's counterpart, else in any other file:
    CHANGED is the share of its elements that differ, MEAN and LARGEST the absolute change,
    COSINE that of old and new. Of quantised and unknown types only the share of bytes is
    told. Layers are tensors together, up to the first number in their names. Of configuration
    files (JSON, YAML, TOML) the settings that differ are shown. Of code that both snapshots
    keep the packages and a unified diff of the source are shown. --json leaves nothing out
    unless --limit is given.

    `backupd help snapshots` tells how a SNAPSHOT is named.
    """
    from backupd.operations.diff import diff

    if only_files and only_tensors:
        only_files = only_tensors = False
    with opened(app, repository) as installation:
        snapshots = [found_snapshot(app, installation, text, target) for text in (old, new)]
        with stop_on_signal() as stop, shown_progress(app) as progress:
            report = diff(
                *snapshots,
                tensors=not only_files,
                threads=installation.settings.limits.threads,
                progress=progress,
                stop=stop,
            )
    output.document(app, documents.diff_report(report, limit))
    if not app.json:
        most = limit or (None if app.verbose else _SHOWN)
        _say_heads(app, report)
        if not only_tensors:
            _say_metrics(app, report)
            _say_files(app, report, most)
            _say_configs(app, report, most)
            say_source(app, report.source, most)
        if not only_files:
            _say_tensors(app, report, most)
    for path, why in report.failed.items():
        output.warn(app, f"not compared: {printable(path)}: {printable(why)}")
    return errors.EXIT_PARTIAL if report.failed else errors.EXIT_DONE


def _say_heads(app: App, report: DiffReport) -> None:
    names = _names(report.old, report.new)
    output.facts(
        app,
        [
            ("from", f"{names[0]} of {local_time(report.old.time)}"),
            ("to", f"{names[1]} of {local_time(report.new.time)}"),
            *(
                (title if first else " " * len(title), line)
                for title, differing in (
                    ("labels", report.labels),
                    ("code", report.code),
                )
                for first, line in _became(differing)
            ),
        ],
    )


def _say_metrics(app: App, report: DiffReport) -> None:
    rows = []
    for key, (old, new) in report.metrics.items():
        both = old is not None and new is not None
        change = f"{new - old:+.6g}" if both else "new" if old is None else "gone"
        share = f"{100 * (new - old) / abs(old):+.3g} %" if both and old else ""
        rows.append((printable(key), _number(old), _number(new), change, share))
    if rows:
        output.result(app, "")
        output.table(app, _METRIC_COLUMNS, rows)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


def _say_configs(app: App, report: DiffReport, most: int | None) -> None:
    for config in report.configs:
        path = printable(config.path)
        if config.old_path != config.path:
            path = f"{printable(config.old_path)} -> {path}"
        if config.note:
            output.note(app, f"{path}: settings not compared: {printable(config.note)}")
            continue
        changed = config.settings
        if not changed:
            output.result(app, f"\n{path}: the settings are the same, written otherwise")
            continue
        output.result(app, f"\n{path}: {count(len(changed), 'setting')}")
        rows = [
            (
                printable(setting.key),
                "" if setting.change == "added" else _setting(setting.old),
                "" if setting.change == "removed" else _setting(setting.new),
            )
            for setting in changed[:most]
        ]
        output.table(app, _SETTING_COLUMNS, rows)
        _say_rest(app, len(changed), most, "setting")


def _setting(value: Any) -> str:
    import json

    text = json.dumps(value, ensure_ascii=False)
    return printable(text if len(text) <= 200 else f"{text[:200]}...")


def _names(old: SnapshotInfo, new: SnapshotInfo) -> tuple[str, str]:
    if old.host == new.host:
        return old.name, new.name
    return f"{old.host}:{old.name}", f"{new.host}:{new.name}"


def _became(differing: Mapping[str, tuple[Any, Any]]) -> Iterable[tuple[bool, str]]:
    for number, (key, (old, new)) in enumerate(differing.items()):
        shown = [
            "none" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
            for value in (old, new)
        ]
        yield not number, printable(f"{key}: {shown[0]} -> {shown[1]}")


def _say_files(app: App, report: DiffReport, most: int | None) -> None:
    changes = Counter(change.change for change in report.files)
    output.result(app, f"\n{_tally('path', changes, report.unchanged_files)}")
    output.table(app, _FILE_COLUMNS, [_file_row(change) for change in report.files[:most]])
    _say_rest(app, len(report.files), most, "path")


def _tally(noun: str, changes: Mapping[str, int], unchanged: int) -> str:
    """`3 paths differ (2 changed, 1 added), 120 are the same`."""
    total = sum(changes.values())
    parts = ", ".join(f"{number:,} {change}" for change, number in sorted(changes.items()))
    same = f"{unchanged:,} {'is' if unchanged == 1 else 'are'} the same"
    if not total:
        return f"no {noun} differs, {same}"
    return f"{count(total, noun)} {'differs' if total == 1 else 'differ'} ({parts}), {same}"


def _file_row(change: FileChange) -> tuple[str, ...]:
    path = _path(change, change.path)
    if change.old_path and change.old_path != change.path:
        path = f"{_path(change, change.old_path)} -> {path}"
    taken = ""
    if change.type.value == "f":
        taken = size(change.old_size_bytes if change.change == "removed" else change.size_bytes)
    return change.change, taken, path, ", ".join(change.attributes)


def _path(change: FileChange, path: bytes) -> str:
    return (printable(path) or ".") + ("/" if change.type.value == "d" and path else "")


def _say_tensors(app: App, report: DiffReport, most: int | None) -> None:
    changes = Counter(change.change for change in report.tensors)
    output.result(app, f"\n{_tally('tensor', changes, report.unchanged_tensors)}")
    if len(report.layers) > 1:
        several = len({layer.folder for layer in report.layers}) > 1
        output.table(
            app,
            _LAYER_COLUMNS,
            [_layer_row(layer, with_folder=several) for layer in report.layers[:most]],
        )
        _say_rest(app, len(report.layers), most, "layer")
        output.result(app, "")
    several = len({tensor.path for tensor in report.tensors}) > 1
    output.table(
        app,
        _TENSOR_COLUMNS,
        [_tensor_row(tensor, with_file=several) for tensor in report.tensors[:most]],
    )
    _say_rest(app, len(report.tensors), most, "tensor")


def _layer_row(layer: LayerChange, *, with_folder: bool) -> tuple[str, ...]:
    name = printable(layer.prefix)
    if with_folder and layer.folder:
        name = f"{printable(layer.folder)}: {name}"
    return name, f"{layer.changed:,} of {layer.tensors:,}", *_figures(layer.figures)


def _tensor_row(tensor: TensorChange, *, with_file: bool) -> tuple[str, ...]:
    figures = _figures(tensor.figures)
    if tensor.change != "changed":
        figures = (tensor.change, *figures[1:])
    return (
        printable(tensor.name),
        printable(tensor.path) if with_file else "",
        _arrow(tensor.old_dtype, tensor.dtype),
        _arrow(_shape(tensor.old_shape) if tensor.old_dtype else "", _shape(tensor.shape)),
        *figures,
    )


def _arrow(old: str, new: str) -> str:
    return f"{old} -> {new}" if old and old != new else new


def _shape(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape)) or "1"


def _figures(figures: Figures | None) -> tuple[str, str, str, str]:
    if figures is None:
        return "", "", "", ""
    return (
        f"{100 * figures.share:.3g} %",
        "" if figures.mean is None else f"{figures.mean:.3g}",
        "" if figures.largest is None else f"{figures.largest:.3g}",
        "" if figures.cosine is None else f"{figures.cosine:.7f}",
    )


def _say_rest(app: App, total: int, most: int | None, noun: str) -> None:
    if most is not None and total > most:
        output.say(app, f"and {count(total - most, f'more {noun}')}, which -v shows")
