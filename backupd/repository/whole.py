"""A blob in a copy that can be read: with a delta its base is there too, and plain.

Of a blob there may be several copies, and a delta whose snapshot is gone may outlive its base
where the rest of its pack is needed. Whoever relies on a blob asks here, not the index itself.
"""

from __future__ import annotations

from backupd.repository.index import Index, Location


def find_whole(
    index: Index, blob_id: bytes, *, plain: bool = False, anywhere: bool = False
) -> Location | None:
    """Where a readable copy lies, or None; with `plain` one that stands on no base.

    With `anywhere` a copy that leans on an avoided pack is better than none, and one without its
    base too, so that the reader can say what is missing.
    """
    first = index.find(blob_id, anywhere=anywhere)
    if first is None or not first.record.base_id:
        return first
    if not plain and _has_base(index, first, anywhere=False):
        return first
    copies = index.copies(blob_id)
    for leaning in (False, True) if anywhere else (False,):
        for copy in copies:
            if not leaning and index.avoids(copy.pack_id):
                continue
            if not copy.record.base_id or (not plain and _has_base(index, copy, anywhere=leaning)):
                return copy
    return first if anywhere and not plain else None


def _has_base(index: Index, location: Location, *, anywhere: bool) -> bool:
    return find_whole(index, location.record.base_id, plain=True, anywhere=anywhere) is not None
