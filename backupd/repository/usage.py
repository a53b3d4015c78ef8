"""Which blobs of an index are needed, as one byte a blob, and what that says of each pack."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

from backupd.codec.blob import ID_SIZE, Buffer
from backupd.errors import DamagedError
from backupd.repository.index import Index
from backupd.repository.reader import BlobReader
from backupd.repository.snapshots import SnapshotRecord
from backupd.repository.tree_codec import decode_tree

_NEEDED = 1
_HELD = 2
# Ids marked at once: enough that numpy's share of each is small, in a few megabytes.
_BATCH = 1 << 16
_LIST_RECORD = ID_SIZE + 4  # see `tree_codec.encode_chunk_list`
_ROWS_AT_ONCE = 1 << 14


@dataclass(frozen=True, slots=True)
class PackUse:
    """One pack: sizes in stored bytes, counts in blobs."""

    pack_id: bytes
    size_bytes: int
    blob_count: int
    used_count: int
    used_bytes: int


class Usage:
    """Marks what snapshots need. Of a blob that lies in several packs one copy counts.

    A copy in a pack that `disliked` names counts only where there is no other, and one in a pack
    of `absent`, which the index names and nobody saw, only where nothing else is left. With a
    delta its base is needed; what is needed for that reason alone is told apart as held.
    """

    def __init__(
        self, index: Index, disliked: Collection[bytes], absent: Collection[bytes] = ()
    ) -> None:
        self._index = index
        self._rows = index.freeze()
        self._disliked = frozenset(disliked)
        self._absent = frozenset(absent)
        self._used = bytearray(self._rows.count)
        self._trees: set[bytes] = set()
        self._lists: set[bytes] = set()
        self.missing: set[bytes] = set()

    def add_snapshot(self, reader: BlobReader, record: SnapshotRecord) -> None:
        """Mark all that a snapshot needs; what is nowhere goes into `missing`.

        A tree that an earlier snapshot had is not read again. Raises `DamagedError`.
        """
        for tree in record.all_trees:
            if tree in self._trees:
                continue
            ids = bytearray(tree)
            for entry in decode_tree(reader.read(tree)):
                ids += entry.chunk_list + entry.layout
                if not entry.chunk_list:
                    ids += b"".join([ref.blob_id for ref in entry.chunks])
                elif entry.chunk_list not in self._lists:
                    self.add_many(chunk_list_ids(reader.read(entry.chunk_list)))
                    self._lists.add(entry.chunk_list)
                if len(ids) >= _BATCH * ID_SIZE:
                    self.add_many(ids)
                    ids = bytearray()
            self.add_many(ids)
            self._trees.add(tree)

    def add_many(self, ids: Buffer) -> None:
        """Mark blobs, given as their ids one after another, as `add` would each of them."""
        import numpy as np

        table = np.frombuffer(ids, np.uint8).reshape(-1, ID_SIZE)
        used = np.frombuffer(self._used, np.uint8)
        for at in range(0, len(table), _BATCH):
            part = table[at : at + _BATCH]
            rows, single = self._rows.places_of(part)
            for place in np.flatnonzero(~single).tolist():
                self.add(part[place].tobytes())
            used[rows[single]] = _NEEDED
            bases = self._rows.base_ids_of(rows[single])
            rows, single = self._rows.places_of(bases)
            single[single] = self._rows.plain_at(rows[single])
            rows, others = rows[single], bases[~single]
            used[rows[used[rows] == 0]] = _HELD
            for base_id in others:
                self._mark_base(base_id.tobytes())

    def add(self, blob_id: bytes) -> None:
        """Mark one blob and, where it is a delta, its base."""
        counted = self._mark(blob_id)
        for row in self._rows.rows(blob_id):
            # Of every copy, as a reader may meet another than the one that counts.
            base_id = self._rows.base_of(row)
            if base_id and (row == counted or self._plain_rows(base_id)):
                self._mark_base(base_id)

    def _mark(self, blob_id: bytes) -> int:
        """Mark one copy as needed; its row, or -1 where there is none."""
        rows = list(self._rows.rows(blob_id))
        if not rows:
            self.missing.add(blob_id)
            return -1
        best = min(rows, key=lambda row: (self._rank(row), bool(self._rows.base_of(row))))
        self._used[best] = _NEEDED
        return best

    def _mark_base(self, base_id: bytes) -> None:
        """Mark one copy as held that stands on no base itself."""
        rows = self._plain_rows(base_id)
        if not rows:
            self.missing.add(base_id)
        else:
            best = min(rows, key=self._rank)
            self._used[best] = self._used[best] or _HELD

    def _plain_rows(self, blob_id: bytes) -> list[int]:
        return [row for row in self._rows.rows(blob_id) if not self._rows.base_of(row)]

    def _rank(self, row: int) -> int:
        """How little a copy is worth: one whose base is gone is worth nothing."""
        pack_id = self._index.pack_of(self._rows.pack_at(row))
        rank = 2 if pack_id in self._absent else int(pack_id in self._disliked)
        base_id = self._rows.base_of(row)
        if base_id:
            return max(rank, min(map(self._rank, self._plain_rows(base_id)), default=3))
        return rank

    def packs(self) -> list[PackUse]:
        """Every pack of the index, in its order."""
        import numpy as np

        used = (np.frombuffer(self._used, np.uint8) != 0).astype(np.uint8)
        packs = list(self._index.packs.items())
        count = len(packs)
        blobs = np.bincount(self._rows.pack, minlength=count)
        used_blobs = np.bincount(self._rows.pack, weights=used, minlength=count)
        used_bytes = np.bincount(
            self._rows.pack, weights=used * self._rows.sealed.astype(np.float64), minlength=count
        )
        return [
            PackUse(pack_id, size, int(blobs[n]), int(used_blobs[n]), int(used_bytes[n]))
            for n, (pack_id, size) in enumerate(packs)
        ]

    def held_bytes(self) -> int:
        """Stored bytes of blobs that only deltas need."""
        import numpy as np

        held = np.frombuffer(self._used, np.uint8) == _HELD
        return int(self._rows.sealed[held].sum(dtype=np.uint64))

    def is_used(self, row: int) -> bool:
        """Whether the blob of a row is needed there."""
        return bool(self._used[row])

    def used_rows(self, pack_ids: Iterable[bytes]) -> Iterator[int]:
        """The rows of these packs whose blobs are needed, in the order of packs and offsets."""
        import numpy as np

        wanted = np.zeros(len(self._index.packs), bool)
        wanted[[self._index.number_of(pack_id) for pack_id in pack_ids]] = True
        used = np.frombuffer(self._used, np.uint8).astype(bool)
        rows = np.flatnonzero(used & wanted[self._rows.pack])
        order = np.lexsort((self._rows.offset[rows], self._rows.pack[rows]))
        for at in range(0, len(order), _ROWS_AT_ONCE):
            yield from rows[order[at : at + _ROWS_AT_ONCE]].tolist()


def chunk_list_ids(plain: Buffer) -> bytes:
    """The ids that a chunk list names, one after another. Raises `DamagedError`."""
    import numpy as np

    if len(plain) % _LIST_RECORD:
        raise DamagedError("a chunk list is cut short")
    table = np.frombuffer(plain, np.uint8).reshape(-1, _LIST_RECORD)
    return table[:, :ID_SIZE].tobytes()
