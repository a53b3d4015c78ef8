"""Which snapshots a repository lists, by the names of objects, and reading them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from backupd.errors import DamagedError, ObjectMissingError
from backupd.repository.layout import MAX_SNAPSHOT
from backupd.repository.small_objects import present
from backupd.repository.snapshots import Listing, SnapshotName, folder_of, names_of
from backupd.targets.base import ObjectInfo

if TYPE_CHECKING:
    from backupd.repository.repository import Repository


def list_once(
    repository: Repository,
    folder: str,
    *,
    afresh: bool,
    advance: Callable[[int, int], None],
) -> tuple[Listing, bool]:
    """A listing, and whether a snapshot went that was not forgotten: it has a new number.

    For the arguments see `Repository.list_snapshots`.
    """
    moved = False
    found: dict[tuple[str, int], int] = {}
    forgotten: set[tuple[str, int]] = set()
    highest: dict[str, int] = {}
    infos = repository.listed(folder)
    for name in infos:
        highest[name.folder] = max(highest.get(name.folder, 0), name.version)
        place = (name.folder, name.version)
        if name.forgotten:
            forgotten.add(place)
        else:
            found[place] = max(found.get(place, -1), name.amendment)
    snapshots = []
    damaged: dict[str, str] = {}
    places = sorted(found.keys() - forgotten)
    wanted = [
        infos.get(name, ObjectInfo(name.object_name(), 0, 0.0))
        for place in places
        for name in names_of(*place, found[place])
    ]
    small_objects = repository.small_objects
    got = small_objects.get_all(folder_of(folder), wanted, MAX_SNAPSHOT, afresh=afresh)
    for place in places:
        name = SnapshotName(*place)
        parts = [next(got) for _ in names_of(*place, found[place])]
        advance(0, 1)
        try:
            stored = [present(part) for part in parts]
            snapshots.append(repository.decoded(name, found[place], stored))
        except ObjectMissingError:
            # Most likely forgotten by another process since it was listed.
            marker = SnapshotName(*place, forgotten=True).object_name()
            moved = moved or repository.target.stat(marker) is None
        except DamagedError as error:
            damaged[name.object_name()] = error.message
    return Listing(tuple(snapshots), damaged, highest, frozenset(forgotten)), moved
