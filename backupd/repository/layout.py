"""Names of objects and the bounds of what is read, all in one place (docs/format.md)."""

from __future__ import annotations

import re

FORMAT_VERSION = 1

DESCRIPTOR = "repository.json"
KEYS = "keys/"
PACKS = "packs/"
INDEX = "index/"
SNAPSHOTS = "snapshots/"
TOMBSTONES = "tombstones/"

MIB = 1 << 20
MAX_DESCRIPTOR = 64 * 1024
MAX_KEY = 64 * 1024
MAX_SNAPSHOT = 64 * MIB
MAX_INDEX = 1024 * MIB
MAX_TOMBSTONE = 256 * MIB
MAX_PACK = 1024 * MIB

_HEX64 = re.compile(r"[0-9a-f]{64}")


def pack_name(pack_id: bytes) -> str:
    """The object name of a pack."""
    digits = pack_id.hex()
    return f"{PACKS}{digits[:2]}/{digits}"


def pack_id_of(name: str) -> bytes | None:
    """The pack id in an object name, or None where the name is not a pack's."""
    last = name.rsplit("/", 1)[-1]
    if not _HEX64.fullmatch(last) or name != f"{PACKS}{last[:2]}/{last}":
        return None
    return bytes.fromhex(last)


def content_id_of(name: str, folder: str) -> bytes | None:
    """The hash in the name of an object of `folder` that is named by its content, or None."""
    last = name.removeprefix(folder)
    return bytes.fromhex(last) if _HEX64.fullmatch(last) else None
