"""The packs of an index, numbered in the order they came: 48 bytes each once they are many.

New packs stay in a list and a dictionary until they are worth sorting in; 10 million blobs may
lie in more than a million packs, which as Python objects would take more than the blobs do.
"""

from __future__ import annotations

import bisect
from typing import TYPE_CHECKING

from backupd.codec.blob import ID_SIZE

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# New packs, at least, and as a share of all: each takes some 250 bytes until it is sorted in.
_SORT_AFTER = 1 << 15
_SORT_SHARE = 4


class PackColumns:
    """Packs that do not change any more.

    `ids` has 32 bytes a pack by number, `sizes` their sizes in bytes, `order` the numbers in the
    order of the packs' ids, `keys` the first 8 bytes (big-endian) of the ids in that order.
    """

    __slots__ = ("_ids", "_keys", "_order", "_sizes", "ids", "keys", "order", "sizes")

    def __init__(
        self,
        ids: NDArray[np.uint8],
        sizes: NDArray[np.uint32],
        order: NDArray[np.uint32],
        keys: NDArray[np.uint64],
    ) -> None:
        self.ids = ids
        self.sizes = sizes
        self.order = order
        self.keys = keys
        self._ids = ids.reshape(-1).data
        self._sizes = sizes.data
        self._order = order.data
        self._keys = keys.data

    @classmethod
    def sorted(cls, ids: bytes, sizes: NDArray[np.uint32]) -> PackColumns:
        """The columns of packs given in the order of their numbers."""
        import numpy as np

        table = np.frombuffer(ids, np.uint8).reshape(-1, ID_SIZE)
        keys = np.ascontiguousarray(table[:, :8]).view(">u8")[:, 0].astype("<u8")
        order = np.argsort(keys, kind="stable").astype("<u4")
        return cls(table, sizes, order, keys[order])

    def __len__(self) -> int:
        return len(self._sizes)

    def id_of(self, number: int) -> bytes:
        """The pack's id."""
        return bytes(self._ids[number * ID_SIZE : (number + 1) * ID_SIZE])

    def size_of(self, number: int) -> int:
        """The pack's size in bytes."""
        return self._sizes[number]

    def find(self, pack_id: bytes) -> int:
        """The pack's number, or -1."""
        key = int.from_bytes(pack_id[:8], "big")
        place = bisect.bisect_left(self._keys, key)
        while place < len(self._keys) and self._keys[place] == key:
            number = self._order[place]
            if self.id_of(number) == pack_id:
                return number
            place += 1
        return -1


class PackRegister:
    """All packs of an index; not safe for several threads by itself."""

    def __init__(self, settled: PackColumns | None = None) -> None:
        self._settled = settled
        self._base = len(settled) if settled is not None else 0
        self._new: list[bytes] = []
        self._new_sizes: list[int] = []
        self._numbers: dict[bytes, int] = {}

    def __len__(self) -> int:
        return self._base + len(self._new)

    def find(self, pack_id: bytes) -> int:
        """The pack's number, or -1 where it is not known."""
        number = self._numbers.get(pack_id, -1)
        if number < 0 and self._settled is not None:
            number = self._settled.find(pack_id)
        return number

    def add(self, pack_id: bytes, size_bytes: int) -> int:
        """Number a pack that is not known."""
        if len(self._new) >= max(_SORT_AFTER, self._base // _SORT_SHARE):
            self.settle()
        number = len(self)
        self._numbers[pack_id] = number
        self._new.append(pack_id)
        self._new_sizes.append(size_bytes)
        return number

    def id_of(self, number: int) -> bytes:
        """The pack's id."""
        if self._settled is not None and number < self._base:
            return self._settled.id_of(number)
        return self._new[number - self._base]

    def size_of(self, number: int) -> int:
        """The pack's size in bytes."""
        if self._settled is not None and number < self._base:
            return self._settled.size_of(number)
        return self._new_sizes[number - self._base]

    def settle(self) -> PackColumns:
        """All packs as columns."""
        import numpy as np

        settled = self._settled
        if settled is None or self._new:
            ids = b"".join(self._new)
            sizes = np.array(self._new_sizes, "<u4")
            if settled is not None:
                ids = settled.ids.tobytes() + ids
                sizes = np.concatenate([settled.sizes, sizes])
            settled = self._settled = PackColumns.sorted(ids, sizes)
            self._base = len(settled)
            self._new.clear()
            self._new_sizes.clear()
            self._numbers.clear()
        return settled

    def sizes(self) -> dict[bytes, int]:
        """The size in bytes of every pack by id, in the order of their numbers."""
        return {self.id_of(number): self.size_of(number) for number in range(len(self))}
