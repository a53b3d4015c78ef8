"""Open files of a folder target, kept because packs are read piece by piece and many times.

Knows descriptors and how long they live; opening one is the caller's.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(slots=True)
class _Handle:
    descriptor: int
    users: int = 0
    kept: bool = True


class Handles:
    """The `limit` most recently read files, each closed only once nobody reads it any more."""

    def __init__(self, limit: int = 32) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._handles: OrderedDict[str, _Handle] = OrderedDict()

    @contextmanager
    def reading(self, name: str, opened: Callable[[], int]) -> Iterator[int]:
        """A descriptor of the object `name` for the length of the block.

        `opened` opens it anew where it is not kept; what that raises is passed on. A kept file
        that has since been deleted or replaced, also by another process, is opened anew: its
        inode then has no name left.
        """
        handle = self._take(name)
        if handle is None:
            handle = self._keep(name, opened())
        try:
            yield handle.descriptor
        finally:
            self._give_back(handle)

    def drop(self, name: str) -> None:
        """Forget the object `name`; readers at work finish first."""
        with self._lock:
            handle = self._handles.pop(name, None)
            if handle is not None:
                self._retire(handle)

    def close(self) -> None:
        """Forget every file."""
        with self._lock:
            while self._handles:
                self._retire(self._handles.popitem()[1])

    def _take(self, name: str) -> _Handle | None:
        with self._lock:
            handle = self._handles.get(name)
            if handle is None:
                return None
            handle.users += 1
            self._handles.move_to_end(name)
        # Outside the lock: on a network mount even this may take its time.
        try:
            if os.fstat(handle.descriptor).st_nlink:
                return handle
        except OSError:
            pass  # a stale handle; opening it anew says what is wrong, if anything is
        with self._lock:
            if self._handles.get(name) is handle:
                del self._handles[name]
                handle.kept = False
        self._give_back(handle)
        return None

    def _keep(self, name: str, descriptor: int) -> _Handle:
        handle = _Handle(descriptor, users=1)
        with self._lock:
            before = self._handles.pop(name, None)
            if before is not None:
                self._retire(before)
            self._handles[name] = handle
            while len(self._handles) > self._limit:
                self._retire(self._handles.popitem(last=False)[1])
        return handle

    def _give_back(self, handle: _Handle) -> None:
        with self._lock:
            handle.users -= 1
            if not handle.users and not handle.kept:
                os.close(handle.descriptor)

    def _retire(self, handle: _Handle) -> None:
        """Close the file, or leave that to its last reader; the lock is held."""
        handle.kept = False
        if not handle.users:
            os.close(handle.descriptor)
