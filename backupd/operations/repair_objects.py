"""Mending what is small: snapshots, labels, keys. A seal or hash tells that bytes are right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from blake3 import blake3

from backupd.errors import BackupdError, DamagedError, ObjectMissingError
from backupd.operations.repair_sources import Donor
from backupd.repository import keys, layout
from backupd.repository.one_bit import with_one_bit_right
from backupd.repository.repository import Repository
from backupd.repository.snapshots import (
    SnapshotName,
    SnapshotRecord,
    StoredSnapshot,
    amended,
    decode_snapshot,
    parse_name,
)

ONE_BIT = "its own bytes, of which one bit was flipped"
LABELS = "the labels that it has there"


@dataclass(frozen=True, slots=True)
class Found:
    """The right bytes of an object, and whence; of a snapshot what they say."""

    stored: bytes
    source: str
    snapshot: StoredSnapshot | None = None


def find_object(repository: Repository, name: str, donors: Sequence[Donor]) -> Found | None:
    """The right bytes of a damaged snapshot, amendment or key object, or None."""
    limit = layout.MAX_KEY if name.startswith(layout.KEYS) else layout.MAX_SNAPSHOT
    for donor in donors:
        try:
            stored = donor.repository.target.get(name, limit)
        except BackupdError:
            continue
        if _is_right(repository, name, stored):
            return Found(stored, donor.name, _snapshot(repository, name, stored))
    try:
        damaged = repository.target.get(name, limit)
    except BackupdError:
        return None
    right = with_one_bit_right(damaged, lambda tried: _is_right(repository, name, tried))
    return None if right is None else Found(right, ONE_BIT, _snapshot(repository, name, right))


def _is_right(repository: Repository, name: str, stored: bytes) -> bool:
    if name.startswith(layout.KEYS):
        key_id = name.removeprefix(layout.KEYS).removesuffix(".json")
        try:
            keys.describe(stored, key_id)
        except DamagedError:
            return False
        return True
    parts = parse_name(name)
    if parts is None:
        return False
    try:
        if parts.amendment:
            amended(_NO_RECORD, stored, name, repository.sealer)
            return True
        record = decode_snapshot(stored, name, repository.sealer)
    except DamagedError:
        return False
    folder = repository.secrets.model_folder(record.host, record.model)
    return folder == parts.folder and record.version == parts.version


_NO_RECORD = SnapshotRecord("", "", 1, 0.0, b"/", ())


def _snapshot(repository: Repository, name: str, stored: bytes) -> StoredSnapshot | None:
    parts = parse_name(name)
    if parts is None or parts.amendment:
        return None
    record = decode_snapshot(stored, name, repository.sealer)
    return StoredSnapshot(parts, record, blake3(stored).hexdigest())


def labels_elsewhere(
    repository: Repository, name: SnapshotName, donors: Sequence[Donor]
) -> tuple[dict[str, str], str] | None:
    """The labels that another target has for the very same snapshot, and which target."""
    base = SnapshotName(name.folder, name.version)
    try:
        here = repository.read_snapshot(base)
    except (DamagedError, ObjectMissingError):
        return None
    for donor in donors:
        try:
            listed = donor.repository.list_snapshots(name.folder).snapshots
        except BackupdError:
            continue
        for snapshot in listed:
            if snapshot.name == base and snapshot.snapshot_id == here.snapshot_id:
                return dict(snapshot.record.labels), donor.name
    return None
