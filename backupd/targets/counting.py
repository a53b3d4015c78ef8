"""Counting what is asked of a target, as a wrapper around any target, for the status page."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from backupd.targets.base import Buffer, ObjectInfo, Target, total_size
from backupd.targets.wrapping import WrappedTarget


@dataclass(frozen=True, slots=True)
class Counts:
    """What went over since the start.

    `requests` is by kind: put, get, stat, list, delete. Those that failed are counted too.
    """

    requests: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    bytes_written: int = 0
    bytes_read: int = 0


class Traffic:
    """A counter that any number of threads and targets may add to."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: dict[str, int] = {}
        self._written = 0
        self._read = 0

    def add(self, kind: str, *, written: int = 0, read: int = 0) -> None:
        """Count one request of `kind` and the bytes it moved; bytes alone where it is empty."""
        with self._lock:
            if kind:
                self._requests[kind] = self._requests.get(kind, 0) + 1
            self._written += written
            self._read += read

    def counts(self) -> Counts:
        """What has been counted until now."""
        with self._lock:
            return Counts(MappingProxyType(dict(self._requests)), self._written, self._read)


class CountingTarget(WrappedTarget):
    """`target`, with every operation added to `traffic`.

    Without `requests` only bytes are, for a target that itself counts what it sends.
    """

    def __init__(self, target: Target, traffic: Traffic, *, requests: bool = True) -> None:
        super().__init__(target)
        self._traffic = traffic
        self._requests = requests

    def put(self, name: str, parts: Sequence[Buffer], *, warm: bool = False) -> None:
        """See `Target.put`."""
        self._add("put", written=total_size(parts))
        self._target.put(name, parts, warm=warm)

    def put_if_absent(self, name: str, parts: Sequence[Buffer]) -> bool:
        """See `Target.put_if_absent`."""
        self._add("put", written=total_size(parts))
        return self._target.put_if_absent(name, parts)

    def get(self, name: str, max_bytes: int) -> bytes:
        """See `Target.get`."""
        data = b""
        try:
            data = self._target.get(name, max_bytes)
        finally:
            self._add("get", read=len(data))
        return data

    def read_into(self, name: str, offset: int, buffer: memoryview) -> None:
        """See `Target.read_into`."""
        self._add("get", read=buffer.nbytes)
        self._target.read_into(name, offset, buffer)

    def stat(self, name: str) -> ObjectInfo | None:
        """See `Target.stat`."""
        self._add("stat")
        return self._target.stat(name)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """See `Target.list`."""
        self._add("list")
        return self._target.list(prefix)

    def delete(self, name: str) -> None:
        """See `Target.delete`."""
        self._add("delete")
        self._target.delete(name)

    def delete_many(self, names: Sequence[str]) -> None:
        """See `Target.delete_many`."""
        for _ in names if self._requests else ():
            self._add("delete")
        self._target.delete_many(names)

    def _add(self, kind: str, *, written: int = 0, read: int = 0) -> None:
        self._traffic.add(kind if self._requests else "", written=written, read=read)
