"""What snapshots there are, over all targets. Which one a person means is in `resolve`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from backupd.errors import BackupdError
from backupd.operations.installation import Installation
from backupd.operations.progress import NoProgress, Progress
from backupd.operations.reports import SnapshotInfo
from backupd.repository.reader import BlobFinder, BlobReader
from backupd.repository.repository import Repository
from backupd.repository.snapshots import StoredSnapshot
from backupd.repository.tree import TreeEntry
from backupd.repository.tree_codec import decode_tree


@dataclass(frozen=True, slots=True)
class ResolvedSnapshot:
    """One snapshot that was meant, and the repository (the nearest) it is read from."""

    info: SnapshotInfo
    stored: StoredSnapshot
    repository: Repository


@dataclass(frozen=True, slots=True)
class Catalog:
    """All snapshots in order of time, and what could not be read of the targets."""

    snapshots: tuple[ResolvedSnapshot, ...]
    unreachable: Mapping[str, BackupdError]
    damaged: Mapping[str, str]


def info_of(stored: StoredSnapshot, targets: Iterable[str]) -> SnapshotInfo:
    """A stored snapshot as the reports tell it."""
    record = stored.record
    return SnapshotInfo(
        id=stored.snapshot_id,
        host=record.host,
        model=record.model,
        version=record.version,
        time=record.time,
        root=record.root.decode("utf-8", "surrogateescape"),
        parent=record.parent,
        labels=record.labels,
        metrics=record.metrics,
        file_count=record.file_count,
        size_bytes=record.size_bytes,
        added_bytes=record.added_bytes,
        stored_bytes=record.stored_bytes,
        duration_seconds=record.duration_seconds,
        incomplete=record.incomplete,
        skipped=record.skipped,
        targets=tuple(targets),
        project=record.project,
        scheme=record.scheme,
        step=record.step,
        epoch=record.epoch,
        code=record.code,
        findings=record.findings,
    )


def read_catalog(
    installation: Installation,
    *,
    model: str = "",
    host: str = "",
    targets: Iterable[str] | None = None,
    progress: Progress | None = None,
) -> Catalog:
    """Read the listings of the targets (all when None) and merge equal snapshots.

    Raises the first failure when no target can be reached.
    """
    unreachable: dict[str, BackupdError] = {}
    damaged: dict[str, str] = {}
    found: dict[str, ResolvedSnapshot] = {}
    progress = progress or NoProgress()
    progress.begin("look at snapshots")
    for repository in installation.repositories(targets, failed=unreachable):
        # With both names the folder is known, and no other model's snapshots are fetched.
        folder = repository.secrets.model_folder(host, model) if model and host else ""
        listing = repository.list_snapshots(folder, advance=progress.advance)
        damaged |= {f"{repository.name}: {name}": why for name, why in listing.damaged.items()}
        for stored in listing.snapshots:
            if (model and stored.record.model != model) or (host and stored.record.host != host):
                continue
            same = found.get(stored.snapshot_id)
            if same is None:
                info = info_of(stored, (repository.name,))
                found[stored.snapshot_id] = ResolvedSnapshot(info, stored, repository)
            else:
                info = replace(same.info, targets=(*same.info.targets, repository.name))
                found[stored.snapshot_id] = replace(same, info=info)
    order = sorted(found.values(), key=lambda s: (s.info.time, s.info.model, s.info.version))
    return Catalog(tuple(order), unreachable, damaged)


def list_snapshots(
    installation: Installation,
    *,
    model: str = "",
    host: str = "",
    labels: Mapping[str, str] | None = None,
    targets: Iterable[str] | None = None,
) -> list[SnapshotInfo]:
    """The snapshots that match, newest last. `labels` with an empty value match any value."""
    catalog = read_catalog(installation, model=model, host=host, targets=targets)
    wanted = (labels or {}).items()
    return [
        snapshot.info
        for snapshot in catalog.snapshots
        if all(
            key in snapshot.info.labels and value in ("", snapshot.info.labels[key])
            for key, value in wanted
        )
    ]


def set_labels(
    installation: Installation, snapshot: ResolvedSnapshot, labels: Mapping[str, str | None]
) -> SnapshotInfo:
    """Set labels (None removes one) wherever the snapshot is listed."""
    merged = dict(snapshot.stored.record.labels)
    for key, value in labels.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = value
    for target in snapshot.info.targets:
        repository = installation.repository(target)
        repository.amend(repository.read_snapshot(snapshot.stored.name), merged)
    return replace(snapshot.info, labels=merged)


def iterate_files(snapshot: ResolvedSnapshot, patterns: Sequence[str] = ()) -> Iterator[TreeEntry]:
    """The entries of a snapshot in path order, all or those that match a gitignore pattern.

    Raises `DamagedError` where part of the tree cannot be read, after all before it was given.
    """
    from backupd.capture.exclude import Exclusion
    from backupd.repository.tree import FileType

    repository = snapshot.repository
    index = repository.load_index(lambda message: None)
    reader = BlobReader(BlobFinder(repository, index, lambda message: None))
    matcher = Exclusion(tuple(patterns))
    for tree in snapshot.stored.record.trees:
        for entry in decode_tree(reader.read(tree)):
            if not patterns or matcher.excludes(entry.path, folder=entry.type is FileType.FOLDER):
                yield entry
