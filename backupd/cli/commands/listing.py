"""`list`, `show` and `files`: what there is. Nothing is changed."""

from __future__ import annotations

import stat
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import click

from backupd import errors
from backupd.cli import completion, documents, output
from backupd.cli.app import App
from backupd.cli.code import code_facts, say_code_notes, say_findings, short_commit
from backupd.cli.command import command
from backupd.cli.errors import error_document, explain
from backupd.cli.formatting import (
    Column,
    count,
    listing,
    local_time,
    pairs,
    percent,
    printable,
    size,
    span,
    utc_time,
)
from backupd.cli.opening import found_snapshot, known_name, opened
from backupd.cli.owed import owed_targets, sentence
from backupd.cli.parameters import (
    mapping,
    pair,
    repository_option,
    snapshot_argument,
    target_option,
)

if TYPE_CHECKING:
    from backupd.operations.catalog import Catalog
    from backupd.operations.installation import Installation
    from backupd.operations.reports import SnapshotInfo
    from backupd.repository.snapshots import LeftOut
    from backupd.repository.tree import TreeEntry

_COLUMNS = (
    Column("SNAPSHOT"),
    Column("DATE"),
    Column("SIZE", right=True),
    Column("ADDED", right=True, drop=1),
    Column("STORED", right=True, drop=4),
    Column("CODE", drop=3),
    Column("LABELS", shrink=10, drop=3),
    Column("TARGETS", shrink=8, drop=2),
    Column(""),
)


@command(
    "list",
    exits=(
        errors.EXIT_NOT_FOUND,
        errors.EXIT_TARGET,
        errors.EXIT_KEY,
        errors.EXIT_DAMAGED,
    ),
    examples=(
        ("backupd list", "every snapshot of every model, the newest last"),
        ("backupd list llama-ft --label release", "those of one model that carry a label"),
        ("backupd list --json | jq -r '.snapshots[-1].name'", "the newest one's name"),
        (
            "BACKUPD_KEY_FILE=/root/key backupd list --repository /mnt/nas/models",
            "on a machine that has no configuration",
        ),
    ),
)
@click.argument("model", required=False, default="", shell_complete=completion.complete_models)
@click.option("--host", metavar="HOST", default="", help="Only snapshots taken on this host.")
@click.option(
    "--label",
    "labels",
    metavar="KEY[=VALUE]",
    type=pair,
    multiple=True,
    help="Only snapshots with this label; give it again for one more.",
)
@target_option("Only snapshots on this target; give it again for one more.", multiple=True)
@repository_option
@click.pass_obj
def list_command(
    app: App,
    model: str,
    host: str,
    labels: Sequence[tuple[str, str]],
    target: tuple[str, ...],
    repository: str,
) -> None:
    """Show the snapshots that there are, the newest last.

    SIZE is what a restore would write, ADDED the part of it that was new, and STORED what
    the target took for that. A ! marks a snapshot that lacks files, or has an earlier state of
    them, as they were not whole or never held still; `backupd show` names them. CODE is the
    commit or revision of the code, with a + where the code differed from it. A target that
    cannot be reached is named, and what the others hold is shown. Where the newest snapshot
    of a model is still to be copied to a target, that is said, and since when the target fails.
    """
    from backupd.cli.progress import shown_progress
    from backupd.operations.catalog import read_catalog

    wanted = mapping(labels, "label")
    with opened(app, repository, quickly=True) as installation:
        with shown_progress(app) as progress:
            catalog = read_catalog(
                installation,
                model=model,
                host=host,
                targets=target or None,
                progress=progress,
            )
        own_host = installation.settings.host
        owed = [] if repository or target else owed_targets(installation.settings, catalog)
        _refuse_unknown_model(installation, catalog, model)
    found = [item.info for item in catalog.snapshots if _has_labels(item.info, wanted)]
    output.document(
        app,
        {
            "snapshots": [documents.snapshot(info) for info in found],
            "owed": owed,
            "unreachable": [
                {"target": name, **error_document(explain(error))}
                for name, error in catalog.unreachable.items()
            ],
            "damaged": [
                {"object": name, "problem": problem} for name, problem in catalog.damaged.items()
            ],
        },
    )
    if found:
        say_snapshots(app, found, own_host)
    elif model or host or labels or target:
        output.say(app, "no snapshot fits")
    elif catalog.damaged:
        output.say(app, "no snapshot can be read")
    else:
        output.say(app, "there is no snapshot yet; `backupd snapshot` takes one")
    for entry in owed:
        if entry["target"] not in catalog.unreachable:
            output.note(app, printable(sentence(entry)))
    for error in catalog.unreachable.values():
        output.warn(app, f"not looked at: {error}")
    for name, problem in catalog.damaged.items():
        output.warn(app, f"{name}: {printable(problem)}; see `backupd check`")


def _refuse_unknown_model(installation: Installation, catalog: Catalog, model: str) -> None:
    if not model or catalog.snapshots or model in installation.settings.models:
        return
    from backupd.operations.catalog import read_catalog

    known = {item.info.model for item in read_catalog(installation).snapshots}
    known_name(model, dict.fromkeys(known | set(installation.settings.models)), "model")


def _has_labels(info: SnapshotInfo, wanted: Mapping[str, str]) -> bool:
    return all(
        key in info.labels and value in ("", info.labels[key]) for key, value in wanted.items()
    )


def say_snapshots(app: App, found: Sequence[SnapshotInfo], own_host: str) -> None:
    """The table of snapshots and how many there are."""
    output.table(app, _COLUMNS, [_row(info, own_host) for info in found])
    models = len({(info.host, info.model) for info in found})
    output.say(app, f"\n{count(len(found), 'snapshot')} of {count(models, 'model')}")


def display_name(info: SnapshotInfo, own_host: str) -> str:
    """`MODEL@vN`, with the host before it where it is another's."""
    return info.name if info.host == own_host else f"{info.host}:{info.name}"


def _row(info: SnapshotInfo, own_host: str) -> tuple[str, ...]:
    return (
        display_name(info, own_host),
        local_time(info.time),
        size(info.size_bytes),
        size(info.added_bytes),
        size(info.stored_bytes),
        short_commit(info.code),
        pairs(info.labels),
        ",".join(info.targets),
        "!" if info.incomplete else "",
    )


@command(
    "show",
    exits=(
        errors.EXIT_NOT_FOUND,
        errors.EXIT_TARGET,
        errors.EXIT_KEY,
        errors.EXIT_DAMAGED,
    ),
    examples=(
        ("backupd show llama-ft@v12", "all that is known of version 12"),
        ("backupd show llama-ft@best --json", "the best by the model's metric, for a script"),
    ),
)
@snapshot_argument
@target_option("Look on this target only.")
@repository_option
@click.pass_obj
def show_command(app: App, snapshot: str, target: str, repository: str) -> None:
    """Show everything that is known of one snapshot, and how it is stored.

    STORED is what the snapshot added to the repository, RATIO its part of what was new, and
    HOW the methods: raw, zstd, planes (numbers split into their bytes), delta (a difference
    from the same tensor of an earlier checkpoint) and shared (in the snapshot before it
    too, or twice in this one). With -v every file and tensor is shown, and of a difference
    what it is a difference from.

    `backupd help snapshots` tells how a SNAPSHOT is named.
    """
    from backupd.cli.commands.describing import MOST_FILES, say_storage
    from backupd.operations.describe import describe
    from backupd.operations.names import rendered_name

    with opened(app, repository, quickly=True) as installation:
        resolved = found_snapshot(app, installation, snapshot, target)
        info = resolved.info
        left_out = resolved.stored.record.left_out
        name = rendered_name(installation.settings, info)
        most = None if app.verbose else MOST_FILES
        try:
            described = describe(resolved, most_files=most, tensors=app.verbose)
        except errors.DamagedError as error:
            described = None
            output.warn(app, f"how it is stored cannot be told: {printable(error.message)}")
    output.document(
        app,
        {
            "snapshot": {**documents.snapshot(info), "rendered_name": name},
            "left_out": [documents.left_out(part) for part in left_out],
            "storage": documents.snapshot_storage(described) if described else None,
        },
    )
    if not app.json:
        output.facts(app, _facts(info, name, left_out))
        if described:
            say_storage(app, described)
        _say_paths(app, "not taken as it was on the disk", info.incomplete)
        _say_paths(app, "left out", info.skipped)
        say_code_notes(app, info)
        say_findings(app, info.findings)


def _facts(info: SnapshotInfo, name: str, left_out: Sequence[LeftOut]) -> list[tuple[str, str]]:
    return [
        ("snapshot", info.name),
        ("named", name),
        ("id", info.id),
        ("host", info.host),
        ("time", f"{local_time(info.time, precise=True)} ({utc_time(info.time)})"),
        ("folder", printable(info.root)),
        ("parent", f"{info.model}@v{info.parent}" if info.parent else "none, it is the first"),
        ("labels", pairs(info.labels)),
        ("metrics", pairs(info.metrics)),
        *_progress(info),
        ("scheme", _scheme(info, left_out)),
        ("files", f"{info.file_count:,}"),
        ("size", f"{size(info.size_bytes)} ({info.size_bytes:,} bytes)"),
        ("added", f"{size(info.added_bytes)}, new against the parent"),
        ("stored", _stored(info)),
        ("took", span(info.duration_seconds)),
        *code_facts(info),
        ("targets", ", ".join(info.targets)),
    ]


def _scheme(info: SnapshotInfo, left_out: Sequence[LeftOut]) -> str:
    """The scheme, and what it left out by role."""
    parts = [
        f"{count(part.files, f'{part.role} file')} of {size(part.size_bytes)} ({_some(part)})"
        for part in left_out
    ]
    return f"{info.scheme}, without {'; '.join(map(printable, parts))}" if parts else info.scheme


def _some(part: LeftOut) -> str:
    named = part.paths[:3]
    more = part.files - len(named)
    return ", ".join(named) + (f" and {more:,} more" if more else "")


def _progress(info: SnapshotInfo) -> list[tuple[str, str]]:
    """How far the training was, where that is known."""
    known = (("step", info.step), ("epoch", info.epoch))
    return [(title, f"{number:,}") for title, number in known if number is not None]


def _stored(info: SnapshotInfo) -> str:
    if not info.added_bytes:
        return size(info.stored_bytes)
    return f"{size(info.stored_bytes)}, {percent(info.stored_bytes, info.added_bytes)} of that"


def _say_paths(app: App, title: str, paths: Sequence[str]) -> None:
    if not paths:
        return
    limit = len(paths) if app.verbose else 20
    output.result(app, f"\n{count(len(paths), 'path')} {title}:")
    for path in paths[:limit]:
        output.result(app, f"  {printable(path)}")
    if len(paths) > limit:
        output.result(app, f"  and {len(paths) - limit:,} more, which -v shows")


@command(
    "files",
    exits=(
        errors.EXIT_NOT_FOUND,
        errors.EXIT_TARGET,
        errors.EXIT_KEY,
        errors.EXIT_DAMAGED,
    ),
    examples=(
        ("backupd files llama-ft@latest", "every path of the newest snapshot"),
        ("backupd files llama-ft@v12 '*.safetensors'", "those that a pattern names, anywhere"),
        ("backupd files llama-ft@v12 'checkpoint-500/**'", "a folder with all that is in it"),
    ),
)
@snapshot_argument
@click.argument("patterns", metavar="[GLOB]...", nargs=-1)
@target_option("Look on this target only.")
@repository_option
@click.pass_obj
def files_command(
    app: App, snapshot: str, patterns: tuple[str, ...], target: str, repository: str
) -> None:
    """Show the files of a snapshot: mode, size, time of change, path.

    A GLOB is written as in .gitignore: `*.pt` fits at any depth, `/config.json` only at the
    top. Quote it, so that the shell leaves it alone.
    """
    from backupd.operations.catalog import iterate_files

    with opened(app, repository, quickly=True) as installation:
        resolved = found_snapshot(app, installation, snapshot, target)
        entries = iterate_files(resolved, patterns)
        if app.json:
            head = {"snapshot": resolved.info.name, "id": resolved.info.id}
            output.streamed_document(
                app, head, "files", (documents.entry(entry) for entry in entries)
            )
            return
        shown = 0
        total_bytes = 0
        for entry in entries:
            click.echo(file_line(entry))
            shown += 1
            if entry.type.value == "f":
                total_bytes += entry.metadata.size_bytes
        if not shown and patterns:
            raise errors.NotFoundError(
                f"{resolved.info.name} holds no path that fits {listing(patterns)}",
                hint=f"`backupd files {resolved.info.name}` shows them all",
            )
        output.say(app, f"\n{count(shown, 'path')}, {size(total_bytes)}")


def file_line(entry: TreeEntry) -> str:
    """`-rw-r--r--    1.23 MB  2026-11-23 20:15  path -> link`."""
    kind = {"d": stat.S_IFDIR, "l": stat.S_IFLNK}.get(entry.type.value, stat.S_IFREG)
    mode = stat.filemode(kind | stat.S_IMODE(entry.metadata.mode))
    taken = size(entry.metadata.size_bytes) if entry.type.value == "f" else ""
    path = printable(entry.path) or "."
    if entry.type.value == "d" and entry.path:
        path += "/"
    if entry.type.value == "l":
        path += f" -> {printable(entry.link)}"
    if entry.type.value == "h":
        path += f" = {printable(entry.link)}"
    return f"{mode}  {taken:>8}  {local_time(entry.metadata.mtime_ns / 1e9)}  {path}"
