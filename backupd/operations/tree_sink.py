"""Where a snapshot's entries go, in path order, on their way to tree blobs.

Nothing is written, and no index loaded, before there is something new to store: of a model that
did not change only the ids of its tree blobs are made, and they are those of the last snapshot.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, cast

from backupd.capture.folders import name_of, shown
from backupd.capture.reading import CaptureFile
from backupd.capture.scan import Scan, Scanned
from backupd.errors import BackupdError
from backupd.operations.previous import Previous, PreviousEntry, same_but_for_inode
from backupd.operations.progress import Progress
from backupd.operations.tree_cache import TreeCache
from backupd.repository.reader import BlobFinder, BlobReader
from backupd.repository.records import BlobKind
from backupd.repository.repository import Repository
from backupd.repository.snapshots import SnapshotName, SnapshotRecord, StoredSnapshot
from backupd.repository.tree import FileType, Metadata, TreeEntry
from backupd.repository.tree_codec import INLINE_CHUNKS, TreeCutter, encode_chunk_list, encode_entry

if TYPE_CHECKING:
    # numpy comes with these; an unchanged model is told without it.
    from backupd.capture.containers.regions import Layout
    from backupd.operations.base_reader import BaseReader
    from backupd.operations.bases import BaseTable
    from backupd.operations.pieces import StoredFile
    from backupd.operations.small_files import SmallBatch, SmallFile
    from backupd.operations.storing import FileStore
    from backupd.repository.pack_stream import PackStream
    from backupd.repository.writer import Writer


IDENTIFIED_BYTES = 64 * 1024  # a smaller container gains less than looking into it costs


class KeptFile(NamedTuple):
    """A file that was read and held still, and what it was in the previous snapshot."""

    path: bytes
    metadata: Metadata
    extents: tuple[tuple[int, int], ...]
    before: PreviousEntry | None
    layout: bytes = b""


class ReadFile(NamedTuple):
    """A file whose content is on its way, and the layout that it was found to have."""

    stored: StoredFile
    layout: Layout | None


class TreeSink:
    """Takes entries and files in path order. One thread calls it.

    `near` says that the repository may be asked for the bases of deltas.
    """

    def __init__(
        self,
        repository: Repository,
        previous: Previous,
        cache: TreeCache,
        scan: Scan,
        *,
        near: bool,
        suspects: Callable[[memoryview], bool],
        clock: Callable[[], float],
        workers: int,
        parallel_puts: int,
        progress: Progress,
        stop: threading.Event,
    ) -> None:
        self.changed = False
        self.file_count = 0
        self.folder_count = 0
        self.size_bytes = 0
        # Below this a file is no container that is looked into, and is one chunk.
        self.small_bytes = min(IDENTIFIED_BYTES, repository.descriptor.chunking.min_size + 1)
        self.keeps_small: Callable[[SmallFile, memoryview, bool], bool] = lambda *_: True
        self._repository = repository
        self._previous = previous
        self._cache = cache
        self._scan = scan
        self._near = near
        self._clock = clock
        self._suspects = suspects
        self._workers = workers
        self._parallel_puts = parallel_puts
        self._progress = progress
        self._stop = stop
        self._cutter = TreeCutter()
        self._trees: list[bytes] = []
        self._known = set(previous.snapshot.record.trees) if previous.snapshot else set()
        self._writer: Writer | None = None
        self._store: FileStore | None = None
        self._stream: PackStream | None = None
        self._bases: BaseTable | None = None
        self._bases_wanted = True
        self._finished = False

    # -- entries ------------------------------------------------------------------------------

    def keep(self, before: PreviousEntry) -> None:
        """An entry that is what it was."""
        if self._store is None or self._store.idle():
            self._emit(before)
        else:
            self._store.pass_through(before)
            self._drain()

    def add(self, entry: TreeEntry) -> None:
        """An entry whose content, if any, is stored."""
        if self._store is None or self._store.idle():
            self._emit(entry)
        else:
            self._store.pass_through(entry)
            self._drain()

    def small_frame(self, size: int) -> memoryview:
        """Where to read a small file of so many bytes, before `add_small`."""
        store = self._file_store()
        while (frame := store.small.frame(size)) is None:
            store.wait()
            self._drain()
        return frame

    def add_small(self, item: Scanned, metadata: Metadata, before: PreviousEntry | None) -> None:
        """A small file that was read into `small_frame`, whole; `keeps_small` has the last word."""
        if self._file_store().small.add(item, metadata, before):
            self._drain()

    def read(self, file: CaptureFile, extents: tuple[tuple[int, int], ...]) -> ReadFile:
        """Read a file's content into blobs; counts for nothing before `accept`."""
        size = file.stat.st_size
        layout = None
        if size >= IDENTIFIED_BYTES and not extents:
            from backupd.capture.containers import identify, read_at_descriptor

            layout = identify(read_at_descriptor(file.fd), size, name_of(file.path))
            if layout is not None and self._bases_wanted:
                self._bases_wanted = False
                self._previous.add_bases(self._base_table())
        stored = self._file_store().add(file, extents, layout)
        return ReadFile(stored, layout)

    def accept(self, read: ReadFile, kept: KeptFile) -> None:
        """The file that was read held still: it becomes an entry when its chunks are stored."""
        layout = b""
        if read.layout is not None:
            from backupd.capture.containers.stored import encode_layout

            encoded = encode_layout(read.layout)
            layout = self._pack_stream().store_bytes(BlobKind.LAYOUT, encoded)
        read.stored.tag = kept._replace(layout=layout)
        self._file_store().accept(read.stored)
        self._drain()

    def _drain(self) -> None:
        assert self._store is not None
        for stored in self._store.ready():
            self._settle(stored)

    def _settle(self, stored: StoredFile) -> None:
        """Give out what has had to wait for its turn."""
        assert self._store is not None
        tag = stored.tag
        if isinstance(tag, PreviousEntry | TreeEntry):
            self._emit(tag)
        elif isinstance(tag, KeptFile):
            self._emit(self._whole(tag, stored))
        else:
            batch = cast("SmallBatch", tag)
            for entry, changed in self._store.small.entries(batch, self.keeps_small):
                self.changed = self.changed or changed
                if isinstance(entry, PreviousEntry | TreeEntry):
                    self._emit(entry)
                else:
                    self._settle(entry)

    def _whole(self, kept: KeptFile, stored: StoredFile) -> TreeEntry:
        refs = stored.refs()
        chunk_list = b""
        expected = sum(n for _, n in kept.extents) if kept.extents else kept.metadata.size_bytes
        if sum(ref.size_bytes for ref in refs) != expected:
            raise BackupdError(f"{shown(kept.path)}: not all of it was stored; take it again")
        if len(refs) > INLINE_CHUNKS:
            chunk_list = self._pack_stream().store_bytes(
                BlobKind.CHUNK_LIST, encode_chunk_list(refs)
            )
            refs = ()
        whole = TreeEntry(
            kept.path,
            FileType.FILE,
            kept.metadata,
            chunks=refs,
            chunk_list=chunk_list,
            extents=kept.extents,
            content_hash=stored.content_hash,
            layout=kept.layout,
        )
        before = kept.before
        if before is None or not same_but_for_inode(before.entry, whole):
            self.changed = True
        return whole

    def _emit(self, item: PreviousEntry | TreeEntry) -> None:
        if isinstance(item, PreviousEntry):
            path, kind, size, line = item.path, item.type, item.size_bytes, item.line
        else:
            path, kind = item.path, item.type
            size, line = item.metadata.size_bytes, encode_entry(item)
        if kind is FileType.FILE:
            self.file_count += 1
            self.size_bytes += size
        elif kind is FileType.FOLDER:
            self.folder_count += 1
        blob = self._cutter.add(path, line)
        if blob is not None:
            self._keep_tree(blob)

    def _keep_tree(self, blob: bytes) -> None:
        tree_id = self._repository.secrets.blob_id(blob)
        if tree_id not in self._known:
            self._pack_stream().store_bytes(BlobKind.TREE, blob)
            self._cache.put(tree_id, blob)
        self._trees.append(tree_id)

    # -- the writer behind --------------------------------------------------------------------

    def _open_writer(self) -> Writer:
        if self._writer is None:
            from backupd.repository.writer import Writer

            index = self._previous.index or self._repository.load_index(self._progress.note)
            self._writer = Writer(
                self._repository,
                index,
                clock=self._clock,
                workers=self._workers + 2,  # small files and the tree have a stream each
                parallel_puts=self._parallel_puts,
                note=self._progress.note,
                stop=self._stop,
            )
        return self._writer

    def stream(self) -> PackStream:
        """A stream for what else belongs to the snapshot; whoever fills it closes it."""
        return self._pack_stream()

    def _pack_stream(self) -> PackStream:
        if self._stream is None:
            self._stream = self._open_writer().stream()
        return self._stream

    def _file_store(self) -> FileStore:
        if self._store is None:
            from backupd.operations.storing import FileStore

            self._store = FileStore(
                self._open_writer(),
                workers=self._workers - 1,
                bases=self._base_table(),
                base_reader=self._make_base_reader,
                suspects=self._suspects,
                advance=self._progress.advance,
                stop=self._stop,
            )
        return self._store

    def _base_table(self) -> BaseTable:
        if self._bases is None:
            from backupd.operations.bases import BaseTable

            self._bases = BaseTable(self._open_writer())
        return self._bases

    def _make_base_reader(self) -> BaseReader:
        from backupd.operations.base_reader import BaseReader

        reader = None
        if self._near:
            finder = BlobFinder(self._repository, self._open_writer().index, self._progress.note)
            reader = BlobReader(finder, bases=False)
        blob_id = self._repository.secrets.blob_id
        return BaseReader(self._base_table(), self._scan.folder_of, blob_id, reader)

    # -- the end ------------------------------------------------------------------------------

    @property
    def added_bytes(self) -> int:
        """Plain bytes that were new to the target."""
        streams = [*(self._store.streams if self._store else ())]
        if self._stream is not None:
            streams.append(self._stream)
        return sum(stream.added_bytes for stream in streams)

    @property
    def stored_bytes(self) -> int:
        """Bytes of the packs that were put."""
        return self._writer.stored_bytes if self._writer else 0

    def finish(self) -> tuple[bytes, ...]:
        """Store what is left; the ids of the tree's blobs. Raises what failed."""
        if self._store is not None:
            self._store.complete()
            self._drain()
            self._store.close()
        rest = self._cutter.rest()
        if rest:
            self._keep_tree(rest)
        if self._stream is not None:
            self._stream.close()
        if self._writer is not None:
            self._writer.finish()
        self._finished = True
        return tuple(self._trees)

    def commit(
        self,
        record: SnapshotRecord,
        lowest_version: Callable[[], int],
        complete: Callable[[SnapshotRecord], SnapshotRecord],
    ) -> StoredSnapshot:
        """List the snapshot, after `finish`; see `Writer.commit`. Raises `StaleIndexError`."""
        writer = self._open_writer()
        writer.finish()
        whole = writer.commit(record, lowest_version, complete)
        self._cache.keep_only(record.trees)
        folder = self._repository.secrets.model_folder(whole.host, whole.model)
        return self._repository.read_snapshot(SnapshotName(folder, whole.version))

    def abandon(self) -> None:
        """End without a snapshot; what was stored stays, indexed, for the next one."""
        if self._finished:
            return
        if self._store is not None:
            self._store.abandon()
        if self._writer is not None:
            self._writer.abandon()
