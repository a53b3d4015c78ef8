"""What one target owes another: two listings and the receiver's policy in, decisions out.

A snapshot that the giver lists is owed to the receiver when the receiver neither lists it nor
bears a marker that it was forgotten there, and the receiver's own policy would keep it among all
that both have. So a target that was replaced by an empty one is filled again, one that was away
gets what it would have kept, and what a policy has dropped does not come back: deciding again
over more snapshots drops it again. A version that the receiver holds damaged is repair's to mend.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from backupd.policy.retention import Candidate
from backupd.repository.snapshots import Listing, SnapshotName, StoredSnapshot

# From candidates to the versions that a policy keeps.
Keeps = Callable[[Sequence[Candidate]], frozenset[int]]


@dataclass(frozen=True, slots=True)
class Clash:
    """Two snapshots under one version: the later one is to take another number."""

    earlier: StoredSnapshot
    later: StoredSnapshot
    later_is_givers: bool


def owed(giver: Listing, receiver: Listing, keeps: Keeps | None) -> list[StoredSnapshot]:
    """What is to be copied of one model, newest first; with `keeps` None all that is missing."""
    there = {snapshot.name.version for snapshot in receiver.snapshots}
    missing = [
        snapshot
        for snapshot in giver.snapshots
        if snapshot.name.version not in there
        and (snapshot.name.folder, snapshot.name.version) not in receiver.forgotten
        and snapshot.name.object_name() not in receiver.damaged
    ]
    if missing and keeps is not None:
        kept = keeps([candidate_of(snapshot) for snapshot in (*receiver.snapshots, *missing)])
        missing = [snapshot for snapshot in missing if snapshot.name.version in kept]
    return sorted(missing, key=lambda snapshot: -snapshot.name.version)


def clashes(giver: Listing, receiver: Listing) -> list[Clash]:
    """Where both list another snapshot under the same version, lowest version first."""
    there = {snapshot.name.version: snapshot for snapshot in receiver.snapshots}
    found = []
    for snapshot in giver.snapshots:
        other = there.get(snapshot.name.version)
        if other is None or other.same_state(snapshot):
            continue
        if age(snapshot) > age(other):
            found.append(Clash(other, snapshot, later_is_givers=True))
        else:
            found.append(Clash(snapshot, other, later_is_givers=False))
    return sorted(found, key=lambda clash: clash.later.name.version)


def age(snapshot: StoredSnapshot) -> tuple[float, str]:
    """What orders two snapshots; both targets come to the same answer."""
    return snapshot.record.time, snapshot.snapshot_id


def newer_labels(giver: Listing, receiver: Listing) -> list[SnapshotName]:
    """The amendments of snapshots that both list, which the receiver lacks."""
    there = {snapshot.name.version: snapshot for snapshot in receiver.snapshots}
    return [
        SnapshotName(snapshot.name.folder, snapshot.name.version, snapshot.amendment)
        for snapshot in giver.snapshots
        if (other := there.get(snapshot.name.version)) is not None
        and other.same_state(snapshot)
        and other.amendment < snapshot.amendment
    ]


def candidate_of(snapshot: StoredSnapshot) -> Candidate:
    """What retention needs to know of a snapshot."""
    record = snapshot.record
    return Candidate(record.version, record.time, record.labels, record.metrics)
