"""Snapshots, index objects and the like of a far target in the state folder, as they are stored.

They are sealed there as they are on the target. Each file begins with a digest of the object's
name, size, time and bytes and is believed only where that is right; deleting any or all of them
costs nothing but time.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable
from pathlib import Path

from blake3 import blake3

from backupd.targets.base import ObjectInfo

# Larger ones are index objects, whose content is kept by `index_cache` in a better form.
_MOST_BYTES = 4 << 20
_DIGEST_SIZE = 32


class StateObjectCache:
    """The small objects of one repository, in `folder`. See `ObjectCache`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def load(self, info: ObjectInfo) -> bytes | None:
        """See `ObjectCache.load`."""
        if info.size_bytes > _MOST_BYTES:
            return None
        try:
            with (self._folder / info.name).open("rb") as file:
                found = file.read(_DIGEST_SIZE + info.size_bytes + 1)
        except OSError:
            return None
        data = found[_DIGEST_SIZE:]
        return data if found[:_DIGEST_SIZE] == _digest(info, data) else None

    def keep(self, info: ObjectInfo, data: bytes) -> None:
        """See `ObjectCache.keep`."""
        if len(data) > _MOST_BYTES or len(data) != info.size_bytes:
            return
        path = self._folder / info.name
        # No object's name begins with a dot, so this is not taken for one.
        temporary = path.parent / f".{os.getpid()}-{threading.get_ident()}"
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            temporary.write_bytes(_digest(info, data) + data)
            temporary.replace(path)
        except OSError:
            return

    def keep_only(self, folder: str, names: Iterable[str]) -> None:
        """See `ObjectCache.keep_only`."""
        wanted = {str(self._folder / name) for name in names}
        for parent, _, files in os.walk(self._folder / folder):
            for name in files:
                path = os.path.join(parent, name)
                if path not in wanted:
                    try:
                        os.unlink(path)
                    except OSError:
                        continue


def _digest(info: ObjectInfo, data: bytes) -> bytes:
    known = f"{info.name}\0{info.size_bytes}\0{info.modified!r}\0"
    return blake3(known.encode()).update(data).digest()
