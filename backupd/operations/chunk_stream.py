"""Chunks in the order of a file, read ahead by several threads, each verified against its id."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

from backupd.repository.reader import BlobFinder, BlobReader
from backupd.repository.tree import ChunkRef


class ChunkStream:
    """Reads chunks ahead; a context manager that ends its threads.

    In memory are at most two chunks a thread, some 8 MiB each with what reading them takes.
    """

    def __init__(self, finder: BlobFinder, threads: int) -> None:
        self._finder = finder
        self._ahead = 2 * threads
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="read-ahead")
        self._own = threading.local()

    def __enter__(self) -> ChunkStream:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._pool.shutdown(cancel_futures=True)

    def read(self, refs: Iterable[ChunkRef]) -> Iterator[bytes]:
        """The chunks, in order. Raises `DamagedError` where one cannot be given."""
        waiting: deque[Future[bytes]] = deque()
        for ref in refs:
            waiting.append(self._pool.submit(self._chunk, ref.blob_id))
            if len(waiting) > self._ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    def _chunk(self, blob_id: bytes) -> bytes:
        reader: BlobReader | None = getattr(self._own, "reader", None)
        if reader is None:
            reader = self._own.reader = BlobReader(self._finder)
        return bytes(reader.read(blob_id))
