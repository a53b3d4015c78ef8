"""Reclaiming the space of what no snapshot needs, in two phases and without a lock.

Everything is done in an order in which being killed anywhere costs nothing: copies before
marks, a new index before an old one goes, the index before the packs. docs/format.md has the
argument.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass, replace

from backupd.errors import DamagedError, StoppedError
from backupd.operations.append_only import refuse_append_only
from backupd.operations.installation import Clock, Installation
from backupd.operations.progress import NoProgress, Progress
from backupd.operations.purge import notes_of, purge_hidden
from backupd.operations.reports import PruneReport
from backupd.repository.copying import copy_blobs, put_index
from backupd.repository.index import Index
from backupd.repository.index_object import PackTable
from backupd.repository.layout import INDEX, PACKS, pack_id_of, pack_name
from backupd.repository.prune_plan import PrunePlan, plan_prune
from backupd.repository.reader import BlobFinder, BlobReader
from backupd.repository.repository import Repository
from backupd.repository.tombstones import Tombstone, encode_tombstone
from backupd.repository.trees_ahead import with_trees_ahead
from backupd.repository.usage import PackUse, Usage
from backupd.repository.writer import GRACE_SECONDS

# Packs of one index object; each has a record of some 50 bytes a blob.
_PACKS_PER_INDEX = 4096
# What one request of S3 deletes; between two of them a prune can be stopped.
_DELETE_AT_ONCE = 1000


@dataclass(frozen=True, slots=True)
class _Survey:
    """What is on the target, and who needs it."""

    index: Index
    usage: Usage
    packs: list[PackUse]
    modified: dict[bytes, float]
    tombstones: list[Tombstone]
    index_objects: list[str]
    cold: frozenset[bytes]


def prune(
    installation: Installation,
    target: str,
    *,
    dry_run: bool = False,
    grace_seconds: float = GRACE_SECONDS,
    progress: Progress | None = None,
    stop: threading.Event | None = None,
) -> PruneReport:
    """Mark what is not needed, delete what has been marked for `grace_seconds`.

    With `dry_run` the answer is what a run at this moment would do. Raises `DamagedError`
    where a snapshot cannot be read, as then nobody knows what it needs, and `StoppedError`;
    a run that was stopped or killed is finished by the next.
    """
    progress = progress or NoProgress()
    stop = stop or threading.Event()
    refuse_append_only(installation, target)
    repository = installation.repository(target)
    notes: list[str] = []
    # Before anything is looked at: what is due by now was marked for the grace when a writer,
    # whose snapshot the survey does not see yet, looked for marks.
    now = installation.clock()
    try:
        survey = _survey(repository, progress, stop, notes)
    except DamagedError:
        # Another prune may have deleted what this one's index still named: look afresh.
        notes.clear()
        survey = _survey(repository, progress, stop, notes)
    plan = plan_prune(
        survey.packs,
        survey.modified,
        survey.tombstones,
        index_objects=len(survey.index_objects),
        now=now,
        grace_seconds=grace_seconds,
        nothing_missing=not survey.usage.missing,
        cold=survey.cold,
    )
    if not dry_run:
        _carry_out(repository, survey, plan, installation.clock, progress, stop)
    purged = purge_hidden(installation, target, dry_run=dry_run, stop=stop)
    notes += notes_of(purged)
    return replace(
        _report(target, survey, plan, dry_run, notes),
        purged_bytes=purged.removed_bytes,
        waiting_bytes=purged.waiting_bytes,
    )


def _survey(
    repository: Repository, progress: Progress, stop: threading.Event, notes: list[str]
) -> _Survey:
    """Look at everything. The packs come before the snapshots, so that a pack that is new by
    the end is not taken for one that nobody needs."""
    progress.begin("look at packs")
    modified: dict[bytes, float] = {}
    sizes: dict[bytes, int] = {}
    cold: set[bytes] = set()
    for info in repository.target.list(PACKS):
        pack_id = pack_id_of(info.name)
        if pack_id is not None:
            modified[pack_id] = info.modified
            sizes[pack_id] = info.size_bytes
            if info.cold:
                cold.add(pack_id)
    tombstones = repository.read_tombstones(notes.append)
    marked = {pack for stone in tombstones for pack in stone.packs}
    index_objects = [info.name for info in repository.target.list(INDEX)]
    index, damaged = repository.read_index_objects()
    if damaged:
        notes.append(f"{len(damaged)} index objects are damaged and are written anew")
    # Packs that a crash left unnamed are found here, and are marked like any other.
    repository.recover_index(index, notes.append)
    # What is marked another prune may be deleting: trees are read from elsewhere if they can be.
    index.avoid(marked)
    # What was cut short is as good as gone: it counts only where nothing else is left, and is
    # not copied from. Where it is marked it is deleted all the same.
    gone = {pack for pack, size in index.packs.items() if sizes.get(pack) != size}
    for pack in gone - marked:
        modified.pop(pack, None)
    usage = Usage(index, marked, absent=gone)
    reader = BlobReader(BlobFinder(repository, index, notes.append))
    listing = repository.list_snapshots()
    if listing.damaged:
        raise _refusal(repository, "; ".join(listing.damaged.values()))
    progress.begin("look at snapshots")
    for snapshot in with_trees_ahead(reader, listing.snapshots):
        if stop.is_set():
            raise StoppedError("stopped; nothing was deleted")
        try:
            usage.add_snapshot(reader, snapshot.record)
        except DamagedError as error:
            name = f"{snapshot.record.model}@v{snapshot.record.version}"
            raise _refusal(repository, f"{name}: {error.message}") from None
        progress.advance(0, 1)
    if usage.missing:
        notes.append(f"{len(usage.missing)} blobs that snapshots need are missing; run check")
    return _Survey(
        index, usage, usage.packs(), modified, tombstones, index_objects, frozenset(cold)
    )


def _refusal(repository: Repository, why: str) -> DamagedError:
    return DamagedError(
        f"{repository.name} is not pruned, as it is not known what all snapshots need: {why}",
        hint="run 'backupd repair'; what it cannot mend, 'backupd forget MODEL@vN' gives up",
    )


def _carry_out(
    repository: Repository,
    survey: _Survey,
    plan: PrunePlan,
    clock: Clock,
    progress: Progress,
    stop: threading.Event,
) -> None:
    def checkpoint() -> None:
        if stop.is_set():
            raise StoppedError(
                "stopped; the next prune goes on, and nothing that is needed is gone"
            )

    checkpoint()
    fresh: list[PackTable] = []
    if plan.repack:
        progress.begin(
            "repack", sum(p.used_bytes for p in survey.packs if p.pack_id in plan.repack)
        )
        rows = survey.index.freeze()
        locations = (rows.record(row) for row in survey.usage.used_rows(plan.repack))
        fresh = copy_blobs(
            repository,
            ((survey.index.pack_of(number), record) for number, record in locations),
            copies=survey.index.copies,
            advance=progress.advance,
            checkpoint=checkpoint,
        )
    marked = plan.mark | plan.repack
    if marked:
        # The time of now: copying may have taken days, and the grace is to begin after it.
        name, stored = encode_tombstone(clock(), marked, repository.sealer)
        repository.target.put(name, [stored])
    checkpoint()
    gone = plan.delete | plan.vanished
    if plan.rewrite_index:
        _rewrite_index(repository, survey, fresh, gone)
    progress.begin("delete")
    due = [pack_name(pack_id) for pack_id in sorted(plan.delete)]
    for begin in range(0, len(due), _DELETE_AT_ONCE):
        checkpoint()
        batch = due[begin : begin + _DELETE_AT_ONCE]
        repository.target.delete_many(batch)
        progress.advance(0, len(batch))
    _rewrite_tombstones(repository, survey.tombstones, gone | plan.unmark)


def _rewrite_index(
    repository: Repository, survey: _Survey, fresh: Iterable[PackTable], gone: frozenset[bytes]
) -> None:
    """Write the index of the packs that stay, then drop the index objects that were read."""
    tables = [pack for pack in survey.index.tables() if pack.pack_id not in gone]
    tables += fresh
    written = {
        put_index(repository, tables[at : at + _PACKS_PER_INDEX])
        for at in range(0, len(tables), _PACKS_PER_INDEX)
    }
    repository.target.delete_many([x for x in survey.index_objects if x not in written])


def _rewrite_tombstones(
    repository: Repository, tombstones: Iterable[Tombstone], settled: frozenset[bytes]
) -> None:
    """Take packs out of the tombstones; what else one marks stays marked since then."""
    for stone in tombstones:
        rest = stone.packs - settled
        if rest == stone.packs or repository.target.stat(stone.name) is None:
            continue  # nothing goes, or another prune wrote what stays of it
        if rest:
            name, stored = encode_tombstone(stone.marked, rest, repository.sealer)
            repository.target.put(name, [stored])
        repository.target.delete(stone.name)


def _report(
    target: str, survey: _Survey, plan: PrunePlan, dry_run: bool, notes: list[str]
) -> PruneReport:
    sizes = {pack.pack_id: pack.size_bytes for pack in survey.packs}
    used = {pack.pack_id: pack.used_bytes for pack in survey.packs}

    def total(packs: Iterable[bytes]) -> int:
        return sum(sizes.get(pack, 0) for pack in packs)

    return PruneReport(
        target=target,
        packs_total=len(survey.packs),
        packs_marked=len(plan.mark | plan.repack),
        packs_deleted=len(plan.delete),
        packs_repacked=len(plan.repack),
        marked_bytes=total(plan.mark | plan.repack),
        deleted_bytes=total(plan.delete),
        repacked_bytes=sum(used[pack] for pack in plan.repack),
        unmarked=len(plan.unmark),
        held_bytes=survey.usage.held_bytes(),
        dry_run=dry_run,
        notes=tuple(notes),
    )
