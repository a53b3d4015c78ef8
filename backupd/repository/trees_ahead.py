"""Reading the trees of many snapshots ahead of who walks through them, where a target is far."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from backupd.repository.reader import BlobReader
from backupd.repository.snapshots import StoredSnapshot
from backupd.repository.whole import find_whole


def with_trees_ahead(
    reader: BlobReader, snapshots: Sequence[StoredSnapshot]
) -> Iterator[StoredSnapshot]:
    """The snapshots in turn, while the trees of those that follow are on their way to `reader`.

    What cannot be read ahead is left to `reader`, which says why.
    """
    warm, index = reader.finder.warm, reader.finder.index
    if warm is None:
        yield from snapshots
        return
    known: set[bytes] = set()

    def fetch(trees: Sequence[bytes]) -> None:
        for tree in trees:
            if location := find_whole(index, tree, anywhere=True):
                warm.fetch(location.pack_id, location.record.offset)

    at_once = reader.finder.repository.small_objects.at_once
    under_way: deque[Future[None]] = deque()
    with ThreadPoolExecutor(at_once, thread_name_prefix="trees") as pool:
        try:
            for number, snapshot in enumerate(snapshots):
                for ahead in snapshots[number + len(under_way) : number + at_once]:
                    trees = [tree for tree in ahead.record.all_trees if tree not in known]
                    known.update(trees)
                    under_way.append(pool.submit(fetch, trees))
                under_way.popleft().result()
                yield snapshot
        finally:
            for future in under_way:
                future.cancel()
