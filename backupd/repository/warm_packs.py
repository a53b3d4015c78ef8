"""Trees, chunk lists and layouts of a far target, read with what lies around them.

They lie together in packs that hold no data, those of one snapshot mostly side by side, and who
reads one soon asks for the next: one request for all of them costs as much as one for each.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable

from backupd.errors import TargetError, TargetUnreachableError
from backupd.repository.layout import MIB, pack_name
from backupd.targets.base import Target

_WINDOW = 2 * MIB
HELD_MOST = 32 * MIB


class _Window:
    """A part of a pack; `data` is empty until it was read, and where it cannot be."""

    __slots__ = ("data", "lock", "read")

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.read = False
        self.data: bytes | bytearray = b""


class WarmPacks:
    """Holds up to `HELD_MOST` bytes of what was read last. Safe for several threads.

    `size_of` gives the size of a pack in bytes.
    """

    def __init__(self, target: Target, size_of: Callable[[bytes], int]) -> None:
        self._target = target
        self._size_of = size_of
        self._lock = threading.Lock()
        self._windows: OrderedDict[tuple[bytes, int], _Window] = OrderedDict()
        self._held_bytes = 0

    def read_into(self, pack_id: bytes, offset: int, view: memoryview) -> bool:
        """Fill `view` from byte `offset` of a pack; false where it is to be read by itself.

        Raises `TargetUnreachableError`; other failures are left to that single read.
        """
        done = 0
        while done < view.nbytes:
            number, begin = divmod(offset + done, _WINDOW)
            part = memoryview(self._window(pack_id, number))[begin : begin + view.nbytes - done]
            if not part:
                return False
            view[done : done + len(part)] = part
            done += len(part)
        return True

    def fetch(self, pack_id: bytes, offset: int) -> None:
        """Have what lies there at hand. Raises `TargetUnreachableError`."""
        self._window(pack_id, offset // _WINDOW)

    def drop(self, pack_id: bytes) -> bool:
        """Let go of what is held of a pack, as it may have been mended; whether anything was."""
        with self._lock:
            keys = [key for key in self._windows if key[0] == pack_id]
            for key in keys:
                self._let_go(key)
        return bool(keys)

    def _window(self, pack_id: bytes, number: int) -> bytes | bytearray:
        key = (pack_id, number)
        with self._lock:
            window = self._windows.setdefault(key, _Window())
            self._windows.move_to_end(key)
        with window.lock:
            if not window.read:
                data = self._read(pack_id, number)
                with self._lock:
                    window.data, window.read = data, True
                    # Unless it was let go of meanwhile; this reader still gets it.
                    if self._windows.get(key) is window:
                        self._held_bytes += len(data)
                    while self._held_bytes > HELD_MOST:
                        self._let_go(next(iter(self._windows)))
            return window.data

    def _let_go(self, key: tuple[bytes, int]) -> None:
        window = self._windows.pop(key)
        self._held_bytes -= len(window.data)

    def _read(self, pack_id: bytes, number: int) -> bytes | bytearray:
        begin = number * _WINDOW
        data = bytearray(max(0, min(_WINDOW, self._size_of(pack_id) - begin)))
        if not data:
            return b""
        try:
            self._target.read_into(pack_name(pack_id), begin, memoryview(data))
        except TargetUnreachableError:
            raise
        except TargetError:
            return b""
        return data
