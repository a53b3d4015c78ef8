"""Reading a repository's small objects: from near at hand, else several at once.

Snapshots, index objects, tombstones and keys are many, small and never change. Where a target is
far each request costs some tens of milliseconds, whatever it brings: read one after another,
a few hundred of them would be what a restore mostly waits for.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol, TypeAlias, TypeVar

from backupd.errors import ObjectMissingError
from backupd.targets.base import ObjectInfo, Target

# An index object may be large, and of those no more is to be in memory than helps.
_AHEAD_BYTES = 64 << 20

# How often a listing is begun anew whose objects were gone when they were read.
RELISTINGS = 4

Found: TypeAlias = bytes | ObjectMissingError
Item = TypeVar("Item")


class ObjectCache(Protocol):
    """Keeps small objects near at hand, each as a listing told of it.

    Whatever goes wrong in it costs time and nothing else: it raises nothing.
    """

    def load(self, info: ObjectInfo) -> bytes | None:
        """The bytes that were kept for just this name, size and time; None where none were."""
        ...

    def keep(self, info: ObjectInfo, data: bytes) -> None:
        """Keep an object."""
        ...

    def keep_only(self, folder: str, names: Iterable[str]) -> None:
        """Let go of all in `folder` (as `index/`) but these."""
        ...


class SmallObjects:
    """The small objects of `target`. Safe for several threads.

    `at_once` is how many requests are worth having on their way at a time: 1 where data is at hand.
    """

    def __init__(self, target: Target, cache: ObjectCache | None = None, at_once: int = 1) -> None:
        self._target = target
        self._cache = cache
        self.at_once = at_once

    def get(self, info: ObjectInfo, max_bytes: int) -> Found:
        """The bytes of one listed object, at most `max_bytes`; the error where it is absent
        meanwhile. Raises `TargetError`."""
        kept = self._cache.load(info) if self._cache is not None else None
        return self._read(info, max_bytes) if kept is None else kept

    def get_all(
        self, folder: str, infos: Sequence[ObjectInfo], max_bytes: int, *, afresh: bool = False
    ) -> Iterator[Found]:
        """As `get` for each, in the order given; nothing else in `folder` (as `index/`) is going
        to be asked for again.

        With `afresh` each is really read from the target.
        """
        if self._cache is not None:
            self._cache.keep_only(folder, [info.name for info in infos])
        return self._get_all(infos, max_bytes, None if afresh else self._cache)

    def _get_all(
        self, infos: Sequence[ObjectInfo], max_bytes: int, cache: ObjectCache | None
    ) -> Iterator[Found]:
        waiting: deque[tuple[int, Found | Future[Found]]] = deque()
        waiting_bytes = 0
        pool: ThreadPoolExecutor | None = None
        try:
            for info in infos:
                size = info.size_bytes
                while waiting and (
                    len(waiting) == self.at_once or waiting_bytes + size > _AHEAD_BYTES
                ):
                    waiting_bytes -= waiting[0][0]
                    yield _result(waiting.popleft()[1])
                kept = cache.load(info) if cache is not None else None
                if kept is not None:
                    waiting.append((size, kept))
                elif self.at_once == 1:
                    waiting.append((size, self._read(info, max_bytes)))
                else:
                    if pool is None:
                        pool = ThreadPoolExecutor(self.at_once, thread_name_prefix="get")
                    waiting.append((size, pool.submit(self._read, info, max_bytes)))
                waiting_bytes += size
            while waiting:
                yield _result(waiting.popleft()[1])
        finally:
            if pool is not None:
                pool.shutdown(cancel_futures=True)

    def do_all(self, act: Callable[[Item], object], items: Sequence[Item]) -> None:
        """Do what takes a request for each item, several at once. Raises what `act` raises."""
        if self.at_once == 1 or len(items) == 1:
            for item in items:
                act(item)
            return
        with ThreadPoolExecutor(self.at_once, thread_name_prefix="do") as pool:
            list(pool.map(act, items))  # which cancels those that follow one that failed

    def _read(self, info: ObjectInfo, max_bytes: int) -> Found:
        try:
            data = self._target.get(info.name, max_bytes)
        except ObjectMissingError as error:
            return error
        if self._cache is not None:
            self._cache.keep(info, data)
        return data


def present(found: Found) -> bytes:
    """The bytes that were found. Raises `ObjectMissingError`."""
    if isinstance(found, ObjectMissingError):
        raise found
    return found


def _result(found: Found | Future[Found]) -> Found:
    return found.result() if isinstance(found, Future) else found
