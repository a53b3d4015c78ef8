"""Two snapshots under one version: both are kept, the later one under the next free number.

It happens where a box was built anew from a target that had been away. At no moment is either of
them listed nowhere: the new name is put before the old one is deleted, and a run that was killed
in between is finished by the next, which knows a snapshot again by its time and its trees.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from backupd.operations.owed import Clash
from backupd.repository.layout import MAX_SNAPSHOT, SNAPSHOTS
from backupd.repository.repository import Repository
from backupd.repository.snapshots import (
    Listing,
    SnapshotName,
    StoredSnapshot,
    encode_snapshot,
    parse_name,
)


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two targets, and what it lists of the model."""

    repository: Repository
    listing: Listing


@dataclass(frozen=True, slots=True)
class Renumbered:
    """What became of a clash: the later snapshot's target, its number before and now."""

    target: str
    model: str
    before: int
    now: int


def renumber(clash: Clash, giver: Side, receiver: Side, free: Callable[[], int]) -> Renumbered:
    """Give the later snapshot of a clash another number on the target that holds it.

    `free` gives a number that was never used on any target of the model. Raises `TargetError`,
    also where the old name must not be deleted (then both names stand, and nothing is lost).
    """
    holder, other = (giver, receiver) if clash.later_is_givers else (receiver, giver)
    later = clash.later
    version = _put_anew(holder, other, later, free)
    _delete(holder.repository, later.name)
    return Renumbered(holder.repository.name, later.record.model, later.name.version, version)


def _put_anew(holder: Side, other: Side, later: StoredSnapshot, free: Callable[[], int]) -> int:
    repository, target = holder.repository, holder.repository.target
    if (twin := _twin(holder.listing, later)) is not None:
        return twin.name.version
    if (twin := _twin(other.listing, later)) is not None:
        name = twin.name.object_name()
        stored = other.repository.target.get(name, MAX_SNAPSHOT)
        if target.put_if_absent(name, [stored]) or target.get(name, MAX_SNAPSHOT) == stored:
            return twin.name.version
    version = free()
    while True:
        name = SnapshotName(later.name.folder, version).object_name()
        record = replace(later.record, version=version)
        if target.put_if_absent(name, [encode_snapshot(record, name, repository.sealer)]):
            return version
        version += 1


def _twin(listing: Listing, snapshot: StoredSnapshot) -> StoredSnapshot | None:
    """The same snapshot under another number."""
    for other in listing.snapshots:
        if other.name != snapshot.name and other.same_state(snapshot):
            return other
    return None


def _delete(repository: Repository, name: SnapshotName) -> None:
    # The labels first: left alone they would be those of the snapshot that takes the number.
    there = [parse_name(info.name) for info in repository.target.list(f"{SNAPSHOTS}{name.folder}/")]
    for found in there:
        if found and found.version == name.version and found.amendment:
            repository.target.delete(found.object_name())
    repository.target.delete(name.object_name())
