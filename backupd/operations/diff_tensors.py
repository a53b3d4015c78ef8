"""Tensors compared chunk by chunk: what is the same by its chunks' ids is not read at all.

Memory is that of the readers, two a thread, and of one entry a tensor, whatever a tensor's size.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from backupd.capture.containers.regions import TensorRegion
from backupd.codec.blob import Buffer
from backupd.errors import BackupdError, DamagedError, StoppedError, TargetUnreachableError
from backupd.operations.diff_numbers import (
    BYTES,
    ELEMENTS,
    NumberKind,
    Sums,
    add_bytes,
    add_numbers,
    add_same,
    number_kind,
    same_bytes,
)
from backupd.repository.reachable import chunks_of
from backupd.repository.reader import BlobFinder, BlobReader
from backupd.repository.tree import ChunkRef, TreeEntry

_SHARE_BYTES = 32 << 20
"""How much of a tensor, or of small tensors together, one thread compares at a time."""


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A container's chunks and where each begins."""

    entry: TreeEntry
    refs: tuple[ChunkRef, ...]
    starts: tuple[int, ...]

    @classmethod
    def of(cls, entry: TreeEntry, reader: BlobReader) -> StoredFile:
        """The chunks of an entry. Raises `DamagedError` where they are not the whole file."""
        refs = tuple(chunks_of(reader, entry))
        starts = tuple(accumulate((ref.size_bytes for ref in refs), initial=0))
        if starts[-1] != entry.metadata.size_bytes:
            raise DamagedError("the chunks that are stored do not make up the file")
        return cls(entry, refs, starts)

    def chunk_at(self, offset: int) -> int:
        """The number of the chunk that holds a byte of the file."""
        return bisect_right(self.starts, offset) - 1


@dataclass(frozen=True, slots=True)
class TensorPair:
    """A tensor and what it was, each with the file that it lies in."""

    old: TensorRegion
    old_file: StoredFile
    new: TensorRegion
    new_file: StoredFile


@dataclass(slots=True)
class Comparison:
    """What is known of a pair when all of it was compared.

    `same` says that no bit differs; `error` why it could not be compared, or is empty. `kinds`
    say how old and new are read as numbers, None where they are compared as bytes.
    """

    pair: TensorPair
    kinds: tuple[NumberKind, NumberKind] | None
    sums: Sums = field(default_factory=Sums)
    same: bool = True
    error: str = ""

    @property
    def unit(self) -> str:
        """What is counted: elements or bytes."""
        return BYTES if self.kinds is None else ELEMENTS

    @property
    def widths(self) -> tuple[int, int]:
        """Bytes of a unit, old and new."""
        return (self.kinds[0].width, self.kinds[1].width) if self.kinds else (1, 1)

    @property
    def count(self) -> int:
        """How many units there are."""
        return self.pair.new.size_bytes // self.widths[1]


def compare_tensors(
    pairs: Sequence[TensorPair],
    finders: tuple[BlobFinder, BlobFinder],
    *,
    threads: int,
    advance: Callable[[int], None],
    stop: threading.Event,
) -> list[Comparison]:
    """Compare pairs, in their order; `finders` are those of the old and the new snapshot.

    `advance` is told how many of the new tensors' bytes were compared, from any thread. What
    cannot be read is named in the comparison. Raises `StoppedError`, `TargetUnreachableError`.
    """
    from concurrent.futures import ThreadPoolExecutor  # 10 ms that only this needs

    local = threading.local()
    lock = threading.Lock()
    comparisons = [Comparison(pair, _kinds(pair.old, pair.new)) for pair in pairs]

    def work(share: _Share) -> None:
        if not hasattr(local, "comparer"):
            local.comparer = _Comparer(*map(StoredBytes, finders))
        for comparison, begin, end in share:
            if stop.is_set():
                raise StoppedError("stopped; nothing was changed")
            sums, same, error = _attempt(local.comparer, comparison, begin, end)
            with lock:
                comparison.sums.add(sums)
                comparison.same &= same
                comparison.error = comparison.error or error
            advance((end - begin) * comparison.widths[1])

    pool = ThreadPoolExecutor(max(threads, 1), thread_name_prefix="diff")
    try:
        for done in [pool.submit(work, share) for share in _shares(comparisons, advance)]:
            done.result()
    finally:
        pool.shutdown(cancel_futures=True)
    return comparisons


_Share = list[tuple[Comparison, int, int]]


def comparable(old: TensorRegion, new: TensorRegion) -> bool:
    """Whether two tensors can be compared element by element, or byte by byte."""
    if old.shape != new.shape:
        return False
    return _kinds(old, new) is not None or (old.dtype, old.size_bytes) == (
        new.dtype,
        new.size_bytes,
    )


def _kinds(old: TensorRegion, new: TensorRegion) -> tuple[NumberKind, NumberKind] | None:
    was, now = number_kind(old.dtype), number_kind(new.dtype)
    if was is None or now is None:
        return None
    # What a file claims of a tensor's shape need not be what its bytes are.
    count, rest = divmod(new.size_bytes, now.width)
    return (was, now) if not rest and old.size_bytes == count * was.width else None


def _shares(comparisons: Sequence[Comparison], advance: Callable[[int], None]) -> Iterator[_Share]:
    """What must be read, in parts of about `_SHARE_BYTES`: the units of each from begin to end."""
    share: _Share = []
    size = 0
    for comparison in comparisons:
        if all(run.same_chunk for run in _runs(comparison, 0, comparison.count)):
            comparison.sums.count = comparison.count
            advance(comparison.pair.new.size_bytes)
            continue
        units, width = comparison.count, comparison.widths[1]
        step = max(_SHARE_BYTES // width, 1)
        for begin in range(0, units, step):
            end = min(begin + step, units)
            share.append((comparison, begin, end))
            size += (end - begin) * width
            if size >= _SHARE_BYTES:
                yield share
                share, size = [], 0
    if share:
        yield share


def _attempt(
    comparer: _Comparer, comparison: Comparison, begin: int, end: int
) -> tuple[Sums, bool, str]:
    try:
        sums, same = comparer.compare(comparison, begin, end)
    except (StoppedError, TargetUnreachableError):
        raise
    except BackupdError as error:
        return Sums(), False, error.message
    return sums, same, ""


class StoredBytes:
    """Bytes of files of one snapshot, with the chunk read last kept. One thread's own."""

    def __init__(self, finder: BlobFinder) -> None:
        self._reader = BlobReader(finder)
        self._id = b""
        self._chunk = memoryview(b"")

    def read(self, file: StoredFile, begin: int, end: int) -> Buffer:
        """The bytes from `begin` to `end`, good until the next call. Raises `DamagedError`."""
        number = file.chunk_at(begin)
        if end <= file.starts[number + 1]:
            return self._part(file, number, begin, end)
        parts = []
        while begin < end:
            number = file.chunk_at(begin)
            stop = min(end, file.starts[number + 1])
            parts.append(bytes(self._part(file, number, begin, stop)))
            begin = stop
        return b"".join(parts)

    def _part(self, file: StoredFile, number: int, begin: int, end: int) -> memoryview:
        ref = file.refs[number]
        if ref.blob_id != self._id:
            self._id = b""
            self._chunk = memoryview(self._reader.read(ref.blob_id))
            if len(self._chunk) != ref.size_bytes:
                raise DamagedError("a chunk has another length than the tree says")
            self._id = ref.blob_id
        start = file.starts[number]
        return self._chunk[begin - start : end - start]


class _Comparer:
    """Compares ranges of tensors. One thread's own."""

    def __init__(self, old: StoredBytes, new: StoredBytes) -> None:
        self._old = old
        self._new = new

    def compare(self, comparison: Comparison, begin: int, end: int) -> tuple[Sums, bool]:
        """The sums of the units from `begin` to `end`, and whether all bits are the same."""
        sums = Sums()
        same = True
        for run in _runs(comparison, begin, end):
            same &= self._compare_run(comparison, run, sums)
        return sums, same

    def _compare_run(self, comparison: Comparison, run: _Run, sums: Sums) -> bool:
        pair, kinds = comparison.pair, comparison.kinds
        if run.same_chunk and kinds is None:
            sums.count += run.new_end - run.new_begin
            return True
        new = self._new.read(pair.new_file, run.new_begin, run.new_end)
        if run.same_chunk and kinds is not None:
            # Its part of the cosine has to be known, if others of the tensor changed.
            add_same(sums, new, kinds[1])
            return True
        old = self._old.read(pair.old_file, run.old_begin, run.old_end)
        same = pair.old.dtype == pair.new.dtype and same_bytes(old, new)
        if kinds is None:
            add_bytes(sums, old, new)
        elif same:
            add_same(sums, new, kinds[1])
        else:
            add_numbers(sums, old, kinds[0], new, kinds[1])
        return same


@dataclass(frozen=True, slots=True)
class _Run:
    """Bytes of both files that lie in one chunk each, or one element that lies in several."""

    old_begin: int
    old_end: int
    new_begin: int
    new_end: int
    same_chunk: bool


def _runs(comparison: Comparison, begin: int, end: int) -> Iterator[_Run]:
    pair = comparison.pair
    old, new, widths = pair.old_file, pair.new_file, comparison.widths
    while begin < end:
        old_at = pair.old.offset + begin * widths[0]
        new_at = pair.new.offset + begin * widths[1]
        old_number, new_number = old.chunk_at(old_at), new.chunk_at(new_at)
        whole = min(
            (old.starts[old_number + 1] - old_at) // widths[0],
            (new.starts[new_number + 1] - new_at) // widths[1],
            end - begin,
        )
        count = max(whole, 1)
        same_chunk = (
            whole > 0
            and pair.old.dtype == pair.new.dtype
            and old.refs[old_number].blob_id == new.refs[new_number].blob_id
            and old_at - old.starts[old_number] == new_at - new.starts[new_number]
        )
        yield _Run(
            old_at, old_at + count * widths[0], new_at, new_at + count * widths[1], same_chunk
        )
        begin += count
