"""The pipeline that stores files: one reader, some workers, packs put behind them.

The caller's thread reads and cuts, and where all frames are filled does as the workers do: hash,
encode and seal. So with one worker fewer than there are threads to use, none is ever idle, nor
are there more of them. Queues between them are bounded by the frames there are, so memory does
not depend on the size of a model: `2 * (workers + 1)` frames of a chunk's most bytes, and the
writer's pack buffers. Small files go in batches of their own, see `small_files`. Entries come out
in the order in which files went in.
"""

from __future__ import annotations

import mmap
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator

from blake3 import blake3

from backupd.capture.containers.regions import Layout
from backupd.capture.cutting import OPAQUE, PIECE_SIZE, Segment, segments_of
from backupd.capture.reading import CaptureFile
from backupd.codec.blob import HEADROOM, Numbers
from backupd.codec.chunking import Chunker
from backupd.errors import BackupdError, StoppedError
from backupd.operations.base_reader import BaseReader
from backupd.operations.bases import BaseTable, Candidate, Place, pieces_of
from backupd.operations.pieces import Piece, SqueezedFiles, StoredFile
from backupd.operations.previous import PreviousEntry
from backupd.operations.small_files import SmallBatch, SmallFiles, Suspects
from backupd.repository.pack_stream import PackStream
from backupd.repository.records import BlobKind
from backupd.repository.tree import ChunkRef, TreeEntry
from backupd.repository.writer import Writer

# Entries that may wait behind a file before the caller waits too, or does what it waits for.
_MOST_WAITING = 4096
_PROBED_BYTES = 64 * 1024  # small files from here on are probed for numbers, which costs time
# How much is read before the cut is looked for again: what lies behind a cut is read twice.
_STEP = 512 * 1024
# How much of a tensor is read and then hashed at once: little enough to be in a cache still, and
# enough to seldom meet the GIL.
_HASHED_BYTES = 2 << 20


class FileStore:
    """Stores files through a writer. One thread calls it; `close` or `abandon` ends it."""

    def __init__(
        self,
        writer: Writer,
        *,
        workers: int,
        bases: BaseTable,
        base_reader: Callable[[], BaseReader],
        suspects: Suspects,
        advance: Callable[[int, int], None],
        stop: threading.Event,
    ) -> None:
        """`workers` come beside the caller; `base_reader` makes a reader of bases for each."""
        secrets = writer.repository.secrets
        parameters = writer.repository.descriptor.chunking
        self._chunker = Chunker(parameters, secrets.chunking_key)
        self._whole_size = parameters.min_size
        self._writer = writer
        self._bases = bases
        self._base_reader = base_reader
        self._blob_id = secrets.blob_id
        self._advance = advance
        self._stop = stop
        self._lock = threading.Lock()
        self._failure: BaseException | None = None
        self._frames: queue.SimpleQueue[memoryview] = queue.SimpleQueue()
        # A tensor's piece may be longer than what is cut by content.
        self._frame_size = HEADROOM + max(parameters.max_size, PIECE_SIZE)
        # Each worker has one, the caller one, and as many wait, so that no worker does without
        # while the caller encodes.
        self._frames_left = 2 * (workers + 1)
        self._pieces: queue.SimpleQueue[Piece | SqueezedFiles | None] = queue.SimpleQueue()
        self._small_frame = memoryview(mmap.mmap(-1, HEADROOM + self._whole_size))
        self._small_stream = writer.stream()
        self._order: deque[StoredFile] = deque()
        self.small = SmallFiles(writer, self._small_stream, suspects, self._hand_over_batch)
        self._came = threading.Event()
        self._own_stream = writer.stream()
        self._own_bases: BaseReader | None = None
        worker_streams = [writer.stream() for _ in range(workers)]
        self.streams = [self._small_stream, self._own_stream, *worker_streams]
        self._threads = [
            threading.Thread(target=self._work, args=(stream,), name=f"store-{n}", daemon=True)
            for n, stream in enumerate(worker_streams)
        ]
        for thread in self._threads:
            thread.start()

    # -- the reader's side --------------------------------------------------------------------

    def add(
        self, file: CaptureFile, extents: tuple[tuple[int, int], ...], layout: Layout | None
    ) -> StoredFile:
        """Read a file's extents (empty: all of it) and hand its chunks to the workers.

        A file with a layout has no extents. The answer is not in the order yet: `accept` puts it
        there when the file held still.
        """
        stored = StoredFile(file.path, mtime_ns=file.stat.st_mtime_ns)
        runs = extents or ((0, file.stat.st_size),)
        if layout is None and len(runs) == 1 and runs[0][1] <= self._whole_size:
            self._add_small(file, runs[0], stored)
        else:
            hasher = blake3()
            if layout is not None:
                for segment in segments_of(layout, file.stat.st_size):
                    self._add_segment(file, segment, stored, hasher)
            else:
                for offset, length in runs:
                    self._add_run(file, offset, length, stored, hasher)
            stored.content_hash = hasher.digest()
        with self._lock:
            stored.closed = True
        return stored

    def accept(self, stored: StoredFile) -> None:
        """Take a file's turn in the order of entries; it may be a base from now on."""
        if not (stored.done and self.small.pass_through(stored)):
            self.small.flush()
            self._order.append(stored)
        if stored.segments:
            self._bases.add_file(stored.path, stored.segments, stored.chunks)

    def pass_through(self, entry: TreeEntry | PreviousEntry) -> None:
        """Take the turn of an entry that has no content to store."""
        if not self.small.pass_through(entry):
            self._order.append(StoredFile(tag=entry, closed=True))
            if len(self._order) >= _MOST_WAITING:
                self.wait()

    def ready(self) -> Iterator[StoredFile]:
        """The files at the front of the order that are done."""
        while self._order and self._order[0].done:
            yield self._order.popleft()

    def wait(self) -> None:
        """Until the front of the order, which there is, is done."""
        while not self._order[0].done:
            self._check()
            if not self._store_waiting():
                self._came.wait(0.5)
                self._came.clear()

    def _hand_over_batch(self, batch: SmallBatch) -> None:
        self._check()
        turn = StoredFile(tag=batch, waiting=1, closed=True)
        self._order.append(turn)
        self._pieces.put(SqueezedFiles(batch, turn))

    def _add_small(self, file: CaptureFile, run: tuple[int, int], stored: StoredFile) -> None:
        """Read and store a file of one chunk here and now.

        Handing it to a worker would cost more than it does itself: of a small file's time most
        is Python's, which threads cannot share.
        """
        offset, length = run
        size = file.read_into(self.small_frame(length), offset) if length else 0
        ref, stored.content_hash = self.store_small(size)
        if ref is not None:
            stored.chunks.append(ref)

    def small_frame(self, size: int) -> memoryview:
        """Where to read a file of one chunk, before `store_small`."""
        return self._small_frame[HEADROOM : HEADROOM + size]

    def store_small(self, size: int) -> tuple[ChunkRef | None, bytes]:
        """Store what was read into `small_frame`: its chunk (None where empty), its hash."""
        end = HEADROOM + size
        chunk = self._small_frame[HEADROOM:end]
        content_hash = blake3(chunk).digest()
        if not size:
            return None, content_hash
        blob_id = self._blob_id(chunk)
        if self._writer.claim(blob_id):
            self._check()
            frame = self._small_frame[:end]
            if size < _PROBED_BYTES:
                self._small_stream.store(blob_id, BlobKind.DATA, frame, size)
            else:
                self._small_stream.store(blob_id, BlobKind.DATA, frame, size, numbers=OPAQUE)
                self._bases.settle(blob_id, b"")
        self._advance(size, 0)
        return ChunkRef(blob_id, size), content_hash

    def idle(self) -> bool:
        """Whether no file before is still on its way, so that an entry may go out at once."""
        return not self._order and self.small.idle

    def _add_segment(
        self, file: CaptureFile, segment: Segment, stored: StoredFile, hasher: blake3
    ) -> None:
        """Cut a tensor every `PIECE_SIZE` bytes, what lies between tensors by content."""
        if not segment.key:
            self._add_run(file, segment.offset, segment.size_bytes, stored, hasher)
            return
        stored.segments.append((segment, len(stored.chunks)))
        for number in range(pieces_of(segment)):
            begin = number * PIECE_SIZE
            size = min(PIECE_SIZE, segment.size_bytes - begin)
            frame = self._take_frame()
            got = 0
            while got < size:
                part = frame[HEADROOM + got : HEADROOM + min(got + _HASHED_BYTES, size)]
                count = file.read_into(part, segment.offset + begin + got)
                hasher.update(part[:count])
                got += count
                if count < len(part):
                    break
            if not got:
                self._frames.put(frame)
                return  # the file is shorter than it was; its stat will tell
            candidate = self._bases.candidate(file.path, segment, number)
            self._hand_over(frame, got, stored, segment.offset + begin, segment.numbers, candidate)

    def _hand_over(
        self,
        frame: memoryview,
        size: int,
        stored: StoredFile,
        offset: int,
        numbers: Numbers,
        candidate: Candidate | None,
    ) -> None:
        with self._lock:
            number = len(stored.chunks)
            stored.chunks.append(None)
            stored.waiting += 1
        self._pieces.put(Piece(frame, size, stored, number, offset, numbers, candidate))

    def _add_run(
        self, file: CaptureFile, offset: int, length: int, stored: StoredFile, hasher: blake3
    ) -> None:
        end = offset + length
        while offset < end:
            frame = self._take_frame()
            room = min(len(frame) - HEADROOM, end - offset)
            filled = size = 0
            while not size:
                step = min(_STEP if filled else max(_STEP, self._whole_size), room - filled)
                at = HEADROOM + filled
                got = file.read_into(frame[at : at + step], offset + filled)
                seen, filled = filled, filled + got
                last = got < step or offset + filled == end
                size = self._chunker.find_cut(frame[HEADROOM : HEADROOM + filled], seen, final=last)
                if got < step and not filled:
                    break
            if not size:
                self._frames.put(frame)
                return  # the file is shorter than it was; its stat will tell
            hasher.update(frame[HEADROOM : HEADROOM + size])
            self._hand_over(frame, size, stored, offset, OPAQUE, None)
            offset += size

    def _take_frame(self) -> memoryview:
        if self._frames_left and self._frames.empty():
            self._frames_left -= 1
            return memoryview(mmap.mmap(-1, self._frame_size))
        while True:
            self._check()
            try:
                return self._frames.get_nowait()
            except queue.Empty:
                pass
            if not self._store_waiting():
                try:
                    return self._frames.get(timeout=0.5)
                except queue.Empty:
                    continue

    def _store_waiting(self) -> bool:
        """Store the piece that has waited longest, in place of a worker; false where none waits."""
        try:
            piece = self._pieces.get_nowait()
        except queue.Empty:
            return False
        if piece is not None:
            if self._own_bases is None:
                self._own_bases = self._base_reader()
            self._store_piece(self._own_stream, piece, self._own_bases)
        return True

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure
        if self._stop.is_set():
            raise StoppedError("stopped; what was stored is kept, and the next snapshot resumes")
        self._writer.raise_failure()

    # -- the workers' side --------------------------------------------------------------------

    def _work(self, stream: PackStream) -> None:
        bases = self._base_reader()
        while (piece := self._pieces.get()) is not None:
            self._store_piece(stream, piece, bases)
        bases.close()

    def _store_piece(
        self, stream: PackStream, piece: Piece | SqueezedFiles, bases: BaseReader
    ) -> None:
        if isinstance(piece, SqueezedFiles):
            self._squeeze(stream, piece)
            return
        try:
            if self._failure is None:
                self._store(stream, piece, bases)
        except BaseException as error:
            self._fail(error)
        finally:
            self._frames.put(piece.frame)

    def _squeeze(self, stream: PackStream, batch: SqueezedFiles) -> None:
        try:
            if self._failure is None:
                batch.files.squeeze(stream)
                self._advance(batch.files.size_bytes, 0)
                batch.turn.waiting = 0
        except BaseException as error:
            self._fail(error)
        self._came.set()

    def _fail(self, error: BaseException) -> None:
        """Remember what went wrong, and wake who waits for a base."""
        self._failure = error
        self._bases.close()

    def _store(self, stream: PackStream, piece: Piece, bases: BaseReader) -> None:
        frame = piece.frame[: HEADROOM + piece.size]
        blob_id = self._blob_id(frame[HEADROOM:])
        file = piece.file
        if self._writer.claim(blob_id):
            key = self._bases.key_of(piece.candidate) if piece.candidate else None
            base = None
            if key is not None and key.size_bytes == piece.size:
                base = bases.base(key)
            used = stream.store(
                blob_id,
                BlobKind.DATA,
                frame,
                piece.size,
                numbers=piece.numbers,
                base=base,
            )
            self._bases.settle(blob_id, used)
        if file.segments:
            place = Place(file.path, piece.offset, piece.size, file.mtime_ns)
            self._bases.add_place(blob_id, place)
        self._bases.settle_ref(file.chunks, piece.number, ChunkRef(blob_id, piece.size))
        with self._lock:
            file.waiting -= 1
        self._came.set()
        self._advance(piece.size, 0)

    # -- the end ------------------------------------------------------------------------------

    def complete(self) -> None:
        """Wait until all that was added is `ready`. Raises what failed."""
        self.small.flush()
        self._end_workers()
        if self._failure is not None:
            raise self._failure

    def close(self) -> None:
        """After `complete`: hand over all packs. Raises what failed."""
        for stream in self.streams:
            stream.close()

    def abandon(self) -> None:
        """End early; packs that have something in them are still handed over."""
        self._end_workers()
        for stream in self.streams:
            try:
                stream.close()
            except BackupdError:
                continue  # the one who abandons has a failure to tell already

    def _end_workers(self) -> None:
        if self._failure is not None or self._stop.is_set():
            self._bases.close()
        while self._store_waiting():
            pass
        if self._own_bases is not None:
            self._own_bases.close()
        for _ in self._threads:
            self._pieces.put(None)
        for thread in self._threads:
            thread.join()
        self._threads = []
