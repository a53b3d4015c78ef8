"""Whether a repository holds what its snapshots need, and with what is found, whom it hurts.

Structure is always checked; with `read_data` blobs are opened and their ids compared.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

from backupd.errors import BackupdError, ColdError, DamagedError, ObjectMissingError
from backupd.operations.check_data import read_packs
from backupd.operations.check_snapshots import check_snapshots
from backupd.operations.diagnosis import Diagnosis
from backupd.operations.installation import Installation
from backupd.operations.progress import NoProgress, Progress
from backupd.operations.reports import CheckReport
from backupd.repository import layout
from backupd.repository.index_object import PackTable
from backupd.repository.pack import read_table
from backupd.repository.repository import Repository
from backupd.repository.snapshots import SnapshotName, StoredSnapshot, amended, parse_name


def check(
    installation: Installation,
    target: str,
    *,
    read_data_percent: float | None = None,
    progress: Progress | None = None,
    stop: threading.Event | None = None,
) -> CheckReport:
    """Check one target. `read_data_percent` of the packs, chosen anew each time, are read whole.

    Raises `TargetError` where the target cannot be reached, and `StoppedError`.
    """
    return diagnose(
        installation,
        target,
        read_data_percent=read_data_percent,
        progress=progress or NoProgress(),
        stop=stop or threading.Event(),
    ).report()


def diagnose(
    installation: Installation,
    target: str,
    *,
    read_data_percent: float | None,
    progress: Progress,
    stop: threading.Event,
    known: Diagnosis | None = None,
    also: Sequence[StoredSnapshot] = (),
) -> Diagnosis:
    """As `check`, with all that `repair` decides by.

    `known` is an earlier diagnosis, whose damaged copies are believed where their packs are still
    what they were. `also` are snapshots that are looked at though they are not listed.
    """
    repository = installation.repository(target)
    found = Diagnosis(repository.name)
    progress.begin("check packs and index")
    _check_packs(repository, found)
    _check_small_objects(repository, found)
    if known is not None:
        _believe(found, known)
    if read_data_percent is not None:
        read_packs(
            repository,
            found,
            percent=read_data_percent,
            threads=installation.settings.limits.threads,
            waiting=installation.reads_ahead(target),
            random=installation.random,
            progress=progress,
            stop=stop,
        )
    check_snapshots(repository, found, also=also, progress=progress, stop=stop)
    return found


def _believe(found: Diagnosis, known: Diagnosis) -> None:
    """Take over what only reading could tell."""
    for pack_id, number in known.bad_packs.items():
        if pack_id in found.present and pack_id not in found.bad_packs:
            finding = known.findings[number]
            found.bad_packs[pack_id] = found.find(finding.object_name, finding.problem)
    for pack_id, number in known.misnamed.items():
        if pack_id in found.present:
            finding = known.findings[number]
            found.misnamed[pack_id] = found.find(finding.object_name, finding.problem)
    for (pack_id, blob_id), number in known.bad_blobs.items():
        if pack_id in found.present:
            found.lose_copy(pack_id, blob_id, known.findings[number].problem)
    found.read_bytes = known.read_bytes


def _check_packs(repository: Repository, found: Diagnosis) -> None:
    """Packs are there, whole in length, and known to the index."""
    for info in repository.target.list(layout.PACKS):
        pack_id = layout.pack_id_of(info.name)
        if pack_id is None:
            found.find(info.name, "is not an object of a repository", harmless=True)
        else:
            found.present[pack_id] = info.size_bytes
            if info.cold:
                found.cold.add(pack_id)
    found.index, damaged = repository.read_index_objects()
    for name, why in damaged.items():
        found.bad_objects[name] = found.find(
            name, f"{why}; what it says is rebuilt from the packs when needed", harmless=True
        )
    for pack_id, size in found.index.packs.items():
        present = found.present.get(pack_id)
        if present == size:
            continue
        name = layout.pack_name(pack_id)
        problem = f"has {present} bytes where it should have {size}" if present else "is missing"
        found.bad_packs[pack_id] = found.find(name, problem)
    _check_unnamed(repository, found, index_is_damaged=bool(damaged))
    found.blob_count = len(found.index)
    marked = repository.read_tombstones(lambda why: _note_tombstone(found, why), afresh=True)
    # As every reader does: the copies that count are those that prune will not delete.
    found.index.avoid(pack for stone in marked for pack in stone.packs)


def _check_unnamed(repository: Repository, found: Diagnosis, *, index_is_damaged: bool) -> None:
    found.unnamed = {pack for pack in found.present if not found.index.has_pack(pack)}
    for pack_id in found.unnamed:
        size = found.present[pack_id]
        try:
            table = read_table(repository.target, pack_id, size, repository.sealer)
            found.index.add_table(PackTable(pack_id, size, table))
        except (ObjectMissingError, ColdError):
            continue  # pruned since it was listed, or not to be read now
        except DamagedError as error:
            found.bad_packs[pack_id] = found.find(layout.pack_name(pack_id), error.message)
    if found.cold:
        found.find(
            layout.PACKS,
            f"{len(found.cold)} packs are in an archive class and are not read",
            harmless=True,
        )
    if found.unnamed and not index_is_damaged:
        found.find(
            layout.INDEX,
            f"names {len(found.unnamed)} packs less than there are, as after a snapshot that was "
            "cut short; they are used by the next one, or pruned",
            harmless=True,
        )


def _note_tombstone(found: Diagnosis, why: str) -> None:
    words = (word.rstrip(":") for word in why.split())
    name = next((word for word in words if word.startswith(layout.TOMBSTONES)), "")
    number = found.find(name or layout.TOMBSTONES, f"{why}; it marks nothing now", harmless=True)
    if name:
        found.bad_objects[name] = number


def _check_small_objects(repository: Repository, found: Diagnosis) -> None:
    """Keys and labels can be read."""
    for key_id in repository.key_ids():
        try:
            repository.describe_key(key_id)
        except DamagedError as error:
            name = f"{layout.KEYS}{key_id}.json"
            found.bad_objects[name] = found.find(name, error.message)
    names = []
    for info in repository.target.list(layout.SNAPSHOTS):
        name_parts = parse_name(info.name)
        if name_parts is None:
            found.find(info.name, "is not an object of a repository", harmless=True)
        else:
            names.append(name_parts)
    # What a forget that was killed left behind is dropped by the next one.
    forgotten = {(name.folder, name.version) for name in names if name.forgotten}
    newest: dict[tuple[str, int], int] = {}
    for part in names:
        place = (part.folder, part.version)
        newest[place] = max(newest.get(place, 0), part.amendment)
    for part in names:
        if part.amendment and (part.folder, part.version) not in forgotten:
            counts = part.amendment == newest[part.folder, part.version]
            _check_labels(repository, found, part, counts=counts)


def _check_labels(
    repository: Repository, found: Diagnosis, name: SnapshotName, *, counts: bool
) -> None:
    place = name.object_name()
    try:
        base = repository.read_snapshot(SnapshotName(name.folder, name.version))
        stored = repository.target.get(place, layout.MAX_SNAPSHOT)
        amended(base.record, stored, place, repository.sealer)
    except BackupdError as error:
        what = "labels are lost, the snapshot is not" if counts else "later labels count"
        found.bad_objects[place] = found.find(
            place, f"{error.message}; {what}", harmless=not counts
        )
