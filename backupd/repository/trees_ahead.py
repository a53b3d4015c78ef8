"""Reading the trees of many snapshots ahead of who walks through them, where a target is far."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from backupd.repository.index import Location
from backupd.repository.planned_reads import PlannedReads
from backupd.repository.reader import BlobReader
from backupd.repository.snapshots import StoredSnapshot
from backupd.repository.whole import find_whole


def with_trees_ahead(
    reader: BlobReader, snapshots: Sequence[StoredSnapshot]
) -> Iterator[StoredSnapshot]:
    """The snapshots in turn, while the trees of those that follow are on their way to `reader`.

    What cannot be read ahead is left to `reader`, which says why.
    """
    finder = reader.finder
    at_once = finder.repository.small_objects.at_once
    if at_once == 1:
        yield from snapshots
        return
    places: list[list[Location]] = []
    known: set[bytes] = set()
    for snapshot in snapshots:
        trees = [tree for tree in snapshot.record.all_trees if tree not in known]
        known.update(trees)
        found = [find_whole(finder.index, tree, anywhere=True) for tree in trees]
        places.append([location for location in found if location is not None])
    planned = PlannedReads(
        finder.repository.target, [location for each in places for location in each]
    )
    finder.planned = planned
    pool = ThreadPoolExecutor(at_once, thread_name_prefix="trees")
    under_way: deque[Future[None]] = deque()
    try:
        for number, snapshot in enumerate(snapshots):
            for ahead in places[number + len(under_way) : number + at_once]:
                under_way.append(pool.submit(_fetch, planned, ahead))
            under_way.popleft().result()
            yield snapshot
    finally:
        pool.shutdown(cancel_futures=True)
        finder.planned = None


def _fetch(planned: PlannedReads, locations: Sequence[Location]) -> None:
    for location in locations:
        planned.fetch(location)
