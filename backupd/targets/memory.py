"""A target in this process's memory: the reference for the protocol, and what tests build on.

Nothing in here touches a disk or a network; what it holds ends with the process.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence

from backupd.errors import ObjectMissingError, TargetError
from backupd.targets.base import Buffer, ObjectInfo, check_name, check_prefix


class MemoryTarget:
    """A `Target` that is a dictionary behind a lock.

    `clock` gives the store's own time in seconds since the epoch.
    """

    def __init__(self, name: str = "memory", *, clock: Callable[[], float] = time.time) -> None:
        self._name = name
        self._clock = clock
        self._lock = threading.Lock()
        self._objects: dict[str, tuple[bytes, float]] = {}

    @property
    def name(self) -> str:
        """The target's name in the configuration."""
        return self._name

    @property
    def location(self) -> str:
        """Where it is, for people."""
        return f"memory:{self._name}"

    def put(self, name: str, parts: Sequence[Buffer], *, warm: bool = False) -> None:
        """See `Target.put`."""
        check_name(name)
        data = b"".join(parts)
        with self._lock:
            self._objects[name] = (data, self._clock())

    def put_if_absent(self, name: str, parts: Sequence[Buffer]) -> bool:
        """See `Target.put_if_absent`."""
        check_name(name)
        data = b"".join(parts)
        with self._lock:
            if name in self._objects:
                return False
            self._objects[name] = (data, self._clock())
            return True

    def get(self, name: str, max_bytes: int) -> bytes:
        """See `Target.get`."""
        data = self._find(name)
        if len(data) > max_bytes:
            raise TargetError(
                f"{name} on target {self._name!r} has {len(data)} bytes, "
                f"more than the {max_bytes} it may have"
            )
        return data

    def read_into(self, name: str, offset: int, buffer: memoryview) -> None:
        """See `Target.read_into`."""
        data = self._find(name)
        view = buffer.cast("B")
        found = memoryview(data)[offset : offset + view.nbytes]
        if found.nbytes != view.nbytes:
            raise TargetError(
                f"{name} on target {self._name!r} ends at byte {len(data)}, "
                f"before byte {offset + view.nbytes} that was asked for"
            )
        view[:] = found

    def stat(self, name: str) -> ObjectInfo | None:
        """See `Target.stat`."""
        check_name(name)
        with self._lock:
            held = self._objects.get(name)
        return None if held is None else ObjectInfo(name, len(held[0]), held[1])

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """See `Target.list`."""
        check_prefix(prefix)
        with self._lock:
            found = [
                ObjectInfo(name, len(data), modified)
                for name, (data, modified) in self._objects.items()
                if name.startswith(prefix)
            ]
        yield from sorted(found, key=lambda info: info.name)

    def delete(self, name: str) -> None:
        """See `Target.delete`."""
        check_name(name)
        with self._lock:
            self._objects.pop(name, None)

    def delete_many(self, names: Sequence[str]) -> None:
        """See `Target.delete_many`."""
        for name in names:
            self.delete(name)

    def close(self) -> None:
        """Keep what is held: a test may open the same memory again."""

    def _find(self, name: str) -> bytes:
        check_name(name)
        with self._lock:
            held = self._objects.get(name)
        if held is None:
            raise ObjectMissingError(f"{name} is not on target {self._name!r}")
        return held[0]
