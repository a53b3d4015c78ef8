"""Reading runs of packs once, whatever order the blobs in them are asked for in.

Deltas are best opened by base and not in the order in which they lie, which on a disk costs
nothing; a store that is far is asked for each run once, and blobs are taken from there.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections import deque
from collections.abc import Iterable

from backupd.errors import TargetError, TargetUnreachableError
from backupd.repository.index import Location
from backupd.repository.layout import MIB, pack_name
from backupd.repository.read_order import Span, spans
from backupd.targets.base import Target

# One request a run: large enough that the way there and back is little beside the bytes.
RUN_MOST = 4 * MIB
HELD_MOST = 96 * MIB


class _Run:
    """One run, while it is held; `left_bytes` are those that have not been asked for yet."""

    __slots__ = ("data", "done", "left_bytes", "lock", "offset", "size_bytes")

    def __init__(self, span: Span) -> None:
        self.lock = threading.Lock()
        self.offset = span.offset
        self.size_bytes = span.size_bytes
        self.left_bytes = sum(record.sealed_size for record in span.records)
        self.data: memoryview | None = None
        self.done = False


class PlannedReads:
    """The runs that hold all `locations`, each read when something in it is first asked for.

    At most `HELD_MOST` bytes are held, and what is being read or still looked at; what had to
    make way is read blob by blob. Safe for several threads.
    """

    def __init__(self, target: Target, locations: Iterable[Location]) -> None:
        self._target = target
        self._runs: dict[bytes, tuple[list[int], list[_Run]]] = {}
        self._lock = threading.Lock()
        self._held: deque[_Run] = deque()
        self._held_bytes = 0
        by_pack: dict[bytes, list[_Run]] = {}
        for span in spans(locations, most=RUN_MOST):
            by_pack.setdefault(span.pack_id, []).append(_Run(span))
        for pack_id, runs in by_pack.items():
            self._runs[pack_id] = ([run.offset for run in runs], runs)

    def read(self, pack_id: bytes, offset: int, size: int) -> memoryview | None:
        """`size` bytes of a pack from byte `offset`; None where they are to be read by themselves.

        Raises `TargetUnreachableError`; other failures are left to that single read.
        """
        run = self._find(pack_id, offset, size)
        if run is None:
            return None
        with run.lock:
            if run.data is None:
                if run.done:
                    return None
                data = _room(run.size_bytes)
                try:
                    self._target.read_into(pack_name(pack_id), run.offset, data)
                except TargetUnreachableError:
                    raise
                except TargetError:
                    run.done = True
                    return None
                run.data = data
                self._hold(run)
            begin = offset - run.offset
            wanted = run.data[begin : begin + size]
            run.left_bytes -= size
            if run.left_bytes <= 0:
                self._drop(run)
        return wanted

    def _find(self, pack_id: bytes, offset: int, size: int) -> _Run | None:
        offsets, runs = self._runs.get(pack_id, ([], []))
        place = bisect_right(offsets, offset) - 1
        if place < 0:
            return None
        run = runs[place]
        return run if offset + size <= run.offset + run.size_bytes else None

    def _hold(self, run: _Run) -> None:
        """Count a run in, and let the oldest go that nobody is just reading from."""
        with self._lock:
            self._held.append(run)
            self._held_bytes += run.size_bytes
            for _ in range(len(self._held)):
                if self._held_bytes <= HELD_MOST:
                    return
                oldest = self._held.popleft()
                if oldest is run or not oldest.lock.acquire(blocking=False):
                    self._held.append(oldest)
                    continue
                try:
                    self._release(oldest)
                finally:
                    oldest.lock.release()

    def _drop(self, run: _Run) -> None:
        with self._lock:
            if run in self._held:
                self._held.remove(run)
                self._release(run)

    def _release(self, run: _Run) -> None:
        run.data = None
        run.done = True
        self._held_bytes -= run.size_bytes


def _room(size: int) -> memoryview:
    """Room for a run, which nobody fills with zeros first: that would keep the GIL.

    The allocator gives pages again that it has; mappings of their own, as kept buffers are, took a
    tenth more of a restore's time, by new pages.
    """
    import numpy as np

    return np.empty(size, np.uint8).data
