"""What a prune will do, decided from values alone; `operations.prune` carries it out.

The two phases: a pack that nobody needs is marked, and deleted by a later run when it has been
marked for longer than the longest snapshot may take and is still not needed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from backupd.repository.tombstones import Tombstone
from backupd.repository.usage import PackUse

# A pack is written anew when so much of it is not needed, or when it is small beside others.
REPACK_WASTE = 0.25
SMALL_PACK = 4 << 20
SMALL_PACKS = 8


@dataclass(frozen=True, slots=True)
class PrunePlan:
    """Pack ids by what becomes of them; each pack is in at most one of the sets.

    `mark` nobody needs; `repack` has what is needed copied out, and is marked then; `unmark` is
    needed again; `delete` was marked long enough; `vanished` is marked and gone already, as after
    a prune that was killed. `rewrite_index` says that index objects are to be written anew.
    """

    mark: frozenset[bytes]
    repack: frozenset[bytes]
    unmark: frozenset[bytes]
    delete: frozenset[bytes]
    vanished: frozenset[bytes]
    rewrite_index: bool

    @property
    def empty(self) -> bool:
        """Whether there is nothing to do."""
        changes = self.mark or self.repack or self.unmark or self.delete or self.vanished
        return not changes and not self.rewrite_index


def plan_prune(
    packs: Iterable[PackUse],
    modified: Mapping[bytes, float],
    tombstones: Iterable[Tombstone],
    *,
    index_objects: int,
    now: float,
    grace_seconds: float,
    nothing_missing: bool = True,
    cold: Collection[bytes] = (),
) -> PrunePlan:
    """Decide. `modified` has the time of each pack that is really there (epoch seconds).

    A pack younger than the grace period is left alone: it may belong to a snapshot that is being
    taken. A pack that is in the index but not there is left to check and repair. One that is there
    and marked, and of which nobody knows what it holds, goes as well, unless some blob is missing.
    A `cold` one is not repacked: it cannot be read, and whoever deletes it early pays for its time
    all the same.
    """
    marked: dict[bytes, float] = {}
    for stone in tombstones:
        for pack_id in stone.packs:
            # Of two marks the older counts: nobody has relied on the pack since.
            marked[pack_id] = min(stone.marked, marked.get(pack_id, stone.marked))
    mark, repack, unmark, delete, small = set(), set(), set(), set(), []
    vanished = marked.keys() - modified.keys()
    indexed_but_gone = False
    unknown = marked.keys() & modified.keys()
    for pack in packs:
        unknown.discard(pack.pack_id)
        since = marked.get(pack.pack_id)
        there = modified.get(pack.pack_id)
        if there is None:
            if pack.used_count:
                vanished.discard(pack.pack_id)
            elif since is not None:
                indexed_but_gone = True
            continue
        if since is not None:
            if pack.used_count:
                unmark.add(pack.pack_id)
            elif since + grace_seconds <= now:
                delete.add(pack.pack_id)
            continue
        if there + grace_seconds > now:
            continue
        if not pack.used_count:
            mark.add(pack.pack_id)
        elif pack.pack_id in cold:
            continue
        elif pack.size_bytes - pack.used_bytes > REPACK_WASTE * pack.size_bytes and (
            pack.used_count < pack.blob_count
        ):
            repack.add(pack.pack_id)
        elif pack.size_bytes < SMALL_PACK:
            small.append(pack.pack_id)
    if nothing_missing:
        delete.update(pack for pack in unknown if marked[pack] + grace_seconds <= now)
    if len(small) >= SMALL_PACKS:
        repack.update(small)
    return PrunePlan(
        mark=frozenset(mark),
        repack=frozenset(repack),
        unmark=frozenset(unmark),
        delete=frozenset(delete),
        vanished=frozenset(vanished),
        rewrite_index=bool(delete) or indexed_but_gone or index_objects > 32,
    )
