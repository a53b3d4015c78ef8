"""The object-store protocol that every target speaks, and the rules for object names.

No target knows what a pack or a snapshot is; here are only names and bytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from backupd.errors import BackupdError

Buffer: TypeAlias = bytes | bytearray | memoryview

# Lower case, digits and a few marks: the same on case-insensitive and 8-bit-unsafe filesystems.
_NAME = re.compile(r"[a-z0-9][a-z0-9._+-]{0,199}(/[a-z0-9][a-z0-9._+-]{0,199}){0,7}")


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """What a listing tells of one object.

    `modified` is seconds since the epoch by the store's own clock. `cold` says that it cannot be
    read before it is thawed; a listing says so of every object in an archive class, `stat` only
    of those that are not thawed now.
    """

    name: str
    size_bytes: int
    modified: float
    cold: bool = False


class Target(Protocol):
    """A flat store of named, immutable objects.

    Every method may be called from several threads at once, and again after it failed: each is
    idempotent. Each raises `ObjectMissingError` where the named object is absent (and only
    then), `TargetUnreachableError` where trying again may help, `TargetFullError`,
    `TargetReadOnlyError` or another `TargetError` where it does not. Names are checked with
    `check_name` on the way in, and listed names that do not pass it are left out. No object's
    name is the folder of another's (`a` beside `a/b`): a filesystem could not hold both.

    A `put_if_absent` that failed with `TargetUnreachableError` may have taken effect: who calls
    it again must expect to meet its own object (`backupd.targets.retry` does).
    """

    @property
    def name(self) -> str:
        """The target's name in the configuration."""
        ...

    @property
    def location(self) -> str:
        """Where it is, for people: a path or an `s3://` address; holds no secret."""
        ...

    def put(self, name: str, parts: Sequence[Buffer], *, warm: bool = False) -> None:
        """Store the concatenation of `parts` under `name`; durable when it returns.

        `warm` says that it is read often: where the store has classes, it goes into none that is
        slow or dear to read.

        A reader sees the whole object or none, also after a crash. Putting over an existing
        object replaces it (callers only do so with equal bytes).
        """
        ...

    def put_if_absent(self, name: str, parts: Sequence[Buffer]) -> bool:
        """As `put`, but only where nothing has that name; true when this call created it."""
        ...

    def get(self, name: str, max_bytes: int) -> bytes:
        """The whole object; `TargetError` when it is larger than `max_bytes`."""
        ...

    def read_into(self, name: str, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` from byte `offset` of the object.

        Raises `TargetError` when the object ends before the buffer is full.
        """
        ...

    def stat(self, name: str) -> ObjectInfo | None:
        """The object's size and time, or None where it is absent."""
        ...

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """All objects whose names begin with the folder `prefix` (as `packs/`), in name order.

        `prefix` is empty, for everything, or ends in `/`; a folder that is not there is empty.
        What is created or deleted while the listing runs may or may not be in it.
        """
        ...

    def delete(self, name: str) -> None:
        """Remove the object; an absent one is no error."""
        ...

    def delete_many(self, names: Sequence[str]) -> None:
        """As `delete` for each, in as few requests as the store allows.

        When it raises, some may be gone and others not.
        """
        ...

    def close(self) -> None:
        """Give back connections and threads; the target is not used afterwards."""
        ...


def is_name(name: str) -> bool:
    """Whether `name` may name an object."""
    return _NAME.fullmatch(name) is not None


def check_name(name: str) -> str:
    """Return `name` when it may name an object, else raise `BackupdError`."""
    if not is_name(name):
        raise BackupdError(f"{name!r} cannot name an object")
    return name


def check_prefix(prefix: str) -> str:
    """Return `prefix` when it may name a folder (empty, or ending in `/`), else raise."""
    if prefix and not (prefix.endswith("/") and is_name(prefix[:-1])):
        raise BackupdError(f"{prefix!r} cannot name a folder of objects")
    return prefix


def total_size(parts: Sequence[Buffer]) -> int:
    """The length in bytes of the concatenation of `parts`."""
    return sum(memoryview(part).nbytes for part in parts)
