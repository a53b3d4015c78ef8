"""Small files in batches, so that what takes most of their time is done beside Python.

Of each small file the caller reads, hashes, seals and lists, which are steps of microseconds that
threads cannot share: Python lets one of them go on at a time, and changing turns costs more than
such a step takes. Searching for secrets and compressing take as long as all of that, and for a
hundred files at once they are two calls that leave the interpreter to the caller.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from blake3 import blake3

from backupd.capture.scan import Scanned
from backupd.codec.blob import RAW_HEADER
from backupd.operations.previous import PreviousEntry, same_but_for_inode
from backupd.repository.pack_stream import PackStream
from backupd.repository.tree import ChunkRef, FileType, Metadata, TreeEntry
from backupd.repository.writer import Writer

if TYPE_CHECKING:
    from backupd.operations.pieces import StoredFile

Entry: TypeAlias = "TreeEntry | PreviousEntry | StoredFile"
"""What may come between small files: a file too, if all of it is stored."""

_BATCH_BYTES = 1 << 20
_BATCH_ENTRIES = 2048
# The largest small file may come when all but a byte is filled.
_BUFFER_BYTES = _BATCH_BYTES + (128 << 10)
# One is filled while one is with a worker.
_BATCHES = 2
# Stands before each file: the form of a blob that is stored as it is, and, as it is zeroes,
# nothing that a secret could reach across into the next file.
_GAP = RAW_HEADER

Suspects = Callable[[memoryview], bool]
"""Whether secrets may stand in texts that lie behind one another; false is certain."""


class SmallFile(NamedTuple):
    """A file that was read into a batch at `at`, and what it was in the previous snapshot.

    `blob_id` is empty where the file is.
    """

    item: Scanned
    metadata: Metadata
    before: PreviousEntry | None
    at: int
    blob_id: bytes
    content_hash: bytes

    def whole(self) -> TreeEntry:
        """Its entry."""
        metadata = self.metadata
        chunks = (ChunkRef(self.blob_id, metadata.size_bytes),) if self.blob_id else ()
        return TreeEntry(
            self.item.path, FileType.FILE, metadata, b"", chunks, b"", (), self.content_hash
        )


class SmallBatch:
    """Some small files in one buffer, and the entries that come between them.

    Filled by the caller, then squeezed by whoever comes to it, then emptied by the caller.
    """

    __slots__ = (
        "_suspects",
        "buffer",
        "end",
        "entries",
        "frames",
        "payloads",
        "size_bytes",
        "suspected",
    )

    def __init__(self, suspects: Suspects) -> None:
        self.buffer = memoryview(mmap.mmap(-1, _BUFFER_BYTES))
        self._suspects = suspects
        self.reset()

    def reset(self) -> None:
        """Empty it."""
        self.end = 0
        self.entries: list[SmallFile | Entry] = []
        # Of files to be stored, by their places.
        self.frames: dict[int, memoryview] = {}
        self.payloads: dict[int, bytes] = {}
        self.suspected = False
        self.size_bytes = 0

    @property
    def full(self) -> bool:
        """Whether it should be handed over before more is added."""
        return self.end >= _BATCH_BYTES or len(self.entries) >= _BATCH_ENTRIES

    def squeeze(self, stream: PackStream) -> None:
        """Look for secrets, and compress what is to be stored, with the encoder of `stream`."""
        self.suspected = self._suspects(self.buffer[: self.end])
        payloads = stream.encoder.squeeze(list(self.frames.values()))
        self.payloads = dict(zip(self.frames, payloads, strict=True))


class SmallFiles:
    """The batches of one store; its caller's thread alone calls it."""

    def __init__(
        self,
        writer: Writer,
        stream: PackStream,
        suspects: Suspects,
        hand_over: Callable[[SmallBatch], None],
    ) -> None:
        """`hand_over` takes a filled batch in the order of entries; `entries` is to follow."""
        self._writer = writer
        self._stream = stream
        self._blob_id = writer.repository.secrets.blob_id
        self._suspects = suspects
        self._hand_over = hand_over
        self._free: list[SmallBatch] = []
        self._left = _BATCHES
        self._open: SmallBatch | None = None

    def frame(self, size: int) -> memoryview | None:
        """Where to read a file of so many bytes, before `add`; None until a batch comes back."""
        batch = self._open
        if batch is None:
            if self._free:
                batch = self._open = self._free.pop()
            elif self._left:
                self._left -= 1
                batch = self._open = SmallBatch(self._suspects)
            else:
                return None
        begin = batch.end + len(_GAP)
        batch.buffer[batch.end : begin] = _GAP
        return batch.buffer[begin : begin + size]

    def add(self, item: Scanned, metadata: Metadata, before: PreviousEntry | None) -> bool:
        """A file that was read into `frame`; whether that filled the batch, which then went off."""
        batch = self._open
        assert batch is not None
        at = batch.end + len(_GAP)
        end = at + metadata.size_bytes
        chunk = batch.buffer[at:end]
        content_hash = blake3(chunk).digest()
        blob_id = self._blob_id(chunk) if chunk else b""
        batch.end = end
        batch.size_bytes += metadata.size_bytes
        batch.entries.append(SmallFile(item, metadata, before, at, blob_id, content_hash))
        if batch.full:
            self.flush()
            return True
        return False

    def pass_through(self, entry: Entry) -> bool:
        """Take an entry into the order behind the files before it; false where none wait here."""
        batch = self._open
        if batch is None or not batch.entries:
            return False
        batch.entries.append(entry)
        if batch.full:
            self.flush()
        return True

    @property
    def idle(self) -> bool:
        """Whether no file waits in a batch that is not full."""
        return self._open is None or not self._open.entries

    def flush(self) -> None:
        """Hand over what there is, as something else comes behind it, or nothing more."""
        batch = self._open
        if batch is None or not batch.entries:
            return
        self._open = None
        files = [entry for entry in batch.entries if isinstance(entry, SmallFile) and entry.blob_id]
        claimed = self._writer.claim_all([file.blob_id for file in files])
        for file, new in zip(files, claimed, strict=True):
            if new:
                end = file.at + file.metadata.size_bytes
                batch.frames[file.at] = batch.buffer[file.at - len(_GAP) : end]
        self._hand_over(batch)

    def entries(
        self, batch: SmallBatch, keeps: Callable[[SmallFile, memoryview, bool], bool]
    ) -> Iterator[tuple[Entry, bool]]:
        """Store a squeezed batch's files; its entries in order, and whether they are of files
        that changed. Asks `keeps` of each file, with its content and whether it may hold a secret.
        """
        frames, payloads, suspected = batch.frames, batch.payloads, batch.suspected
        new = []
        left_out = set()
        for entry in batch.entries:
            if not isinstance(entry, SmallFile):
                continue
            at = entry.at
            content = batch.buffer[at : at + entry.metadata.size_bytes]
            if not keeps(entry, content, suspected):
                left_out.add(at)
                if at in frames:
                    self._writer.disclaim(entry.blob_id)
            elif at in frames:
                new.append((entry.blob_id, frames[at], payloads[at]))
        self._stream.store_squeezed(new)
        for entry in batch.entries:
            if not isinstance(entry, SmallFile):
                yield entry, False
            elif entry.at not in left_out:
                whole = entry.whole()
                before = entry.before
                yield whole, before is None or not same_but_for_inode(before.entry, whole)
        batch.reset()
        self._free.append(batch)
