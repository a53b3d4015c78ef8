"""What an index object on a target says: packs with their tables, as sealed together.

`docs/format.md` has its bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from backupd.codec.blob import ID_SIZE
from backupd.errors import DamagedError
from backupd.repository.layout import MAX_PACK
from backupd.repository.records import table_size

MAGIC = b"backupd index 1\n"
ASSOCIATED = b"backupd format 1: index"
_ENTRY_HEAD = ID_SIZE + 8  # pack id, size of the pack


@dataclass(frozen=True, slots=True)
class PackTable:
    """One pack as an index knows it: id, size in bytes, and its table's bytes."""

    pack_id: bytes
    size_bytes: int
    table: bytes | memoryview


def index_bytes(packs: Iterable[PackTable]) -> bytes:
    """The plain bytes of an index object."""
    parts = [MAGIC]
    for pack in packs:
        parts.append(pack.pack_id + pack.size_bytes.to_bytes(8, "little"))
        parts.append(bytes(pack.table))
    return b"".join(parts)


def parse_index(plain: bytes | bytearray) -> Iterator[PackTable]:
    """The packs of an index object's plain bytes. Raises `DamagedError`."""
    view = memoryview(plain)
    if view[: len(MAGIC)] != MAGIC:
        raise DamagedError("an index object does not begin as one does")
    at = len(MAGIC)
    while at < len(view):
        if len(view) - at < _ENTRY_HEAD:
            raise DamagedError("an index object is cut short")
        pack_id = bytes(view[at : at + ID_SIZE])
        size = int.from_bytes(view[at + ID_SIZE : at + _ENTRY_HEAD], "little")
        at += _ENTRY_HEAD
        length = table_size(view[at:])
        if size > MAX_PACK:
            raise DamagedError("an index object names a pack of impossible size")
        yield PackTable(pack_id, size, view[at : at + length])
        at += length
