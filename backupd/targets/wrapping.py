"""The common ground of targets that wrap another one: every operation passed on.

A wrapper derives from it and overrides what it changes; on its own it is of no use.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from backupd.targets.base import Buffer, ObjectInfo, Target


class WrappedTarget:
    """A `Target` that is `target` but for what the deriving class overrides."""

    def __init__(self, target: Target) -> None:
        self._target = target

    @property
    def name(self) -> str:
        """The target's name in the configuration."""
        return self._target.name

    @property
    def location(self) -> str:
        """Where it is, for people."""
        return self._target.location

    def put(self, name: str, parts: Sequence[Buffer], *, warm: bool = False) -> None:
        """See `Target.put`."""
        self._target.put(name, parts, warm=warm)

    def put_if_absent(self, name: str, parts: Sequence[Buffer]) -> bool:
        """See `Target.put_if_absent`."""
        return self._target.put_if_absent(name, parts)

    def get(self, name: str, max_bytes: int) -> bytes:
        """See `Target.get`."""
        return self._target.get(name, max_bytes)

    def read_into(self, name: str, offset: int, buffer: memoryview) -> None:
        """See `Target.read_into`."""
        self._target.read_into(name, offset, buffer)

    def stat(self, name: str) -> ObjectInfo | None:
        """See `Target.stat`."""
        return self._target.stat(name)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """See `Target.list`."""
        return self._target.list(prefix)

    def delete(self, name: str) -> None:
        """See `Target.delete`."""
        self._target.delete(name)

    def delete_many(self, names: Sequence[str]) -> None:
        """See `Target.delete_many`; each by `delete`, so that what overrides that sees each."""
        for name in names:
            self.delete(name)

    def close(self) -> None:
        """See `Target.close`."""
        self._target.close()
