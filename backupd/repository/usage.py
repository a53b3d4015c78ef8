"""Which blobs of an index are needed, as one byte a blob, and what that says of each pack."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from backupd.repository.index import Index
from backupd.repository.reachable import chunks_of
from backupd.repository.reader import BlobReader
from backupd.repository.snapshots import SnapshotRecord
from backupd.repository.tree_codec import decode_tree

_NEEDED = 1
_HELD = 2


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
        self.missing: set[bytes] = set()

    def add_snapshot(self, reader: BlobReader, record: SnapshotRecord) -> None:
        """Mark all that a snapshot needs; what is nowhere goes into `missing`.

        A tree that an earlier snapshot had is not read again. Raises `DamagedError`.
        """
        for tree in record.trees:
            if tree in self._trees:
                continue
            self.add(tree)
            for entry in decode_tree(reader.read(tree)):
                if entry.chunk_list:
                    self.add(entry.chunk_list)
                if entry.layout:
                    self.add(entry.layout)
                for ref in chunks_of(reader, entry):
                    self.add(ref.blob_id)
            self._trees.add(tree)

    def add(self, blob_id: bytes) -> None:
        """Mark one blob and, where it is a delta, its base."""
        counted = self._mark(blob_id, _NEEDED)
        for row in self._rows.rows(blob_id):
            # Of every copy, as a reader may meet another than the one that counts.
            base_id = self._rows.base_of(row)
            if base_id and (row == counted or any(True for _ in self._rows.rows(base_id))):
                self._mark(base_id, _HELD)

    def _mark(self, blob_id: bytes, why: int) -> int:
        """Mark one copy; its row, or -1 where there is none."""
        best = -1
        for row in self._rows.rows(blob_id):
            if self._used[row]:
                self._used[row] = min(self._used[row], why)
                return row
            if best < 0 or self._rank(best) > self._rank(row):
                best = row
        if best < 0:
            self.missing.add(blob_id)
        else:
            self._used[best] = why
        return best

    def _rank(self, row: int) -> int:
        pack_id = self._index.pack_of(int(self._rows.pack[row]))
        return 2 if pack_id in self._absent else int(pack_id in self._disliked)

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

    def used_rows(self, pack_ids: Iterable[bytes]) -> list[int]:
        """The rows of these packs whose blobs are needed, in the order of packs and offsets."""
        import numpy as np

        numbers = [self._index.number_of(pack_id) for pack_id in pack_ids]
        used = np.frombuffer(self._used, np.uint8).astype(bool)
        rows = np.flatnonzero(used & np.isin(self._rows.pack, numbers))
        order = np.lexsort((self._rows.offset[rows], self._rows.pack[rows]))
        return [int(row) for row in rows[order]]
