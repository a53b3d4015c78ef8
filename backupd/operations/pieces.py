"""What goes from the thread that reads to those that encode, and the turn it takes in the order."""

from __future__ import annotations

from dataclasses import dataclass, field

from backupd.capture.cutting import Segment
from backupd.codec.blob import Numbers
from backupd.operations.bases import Candidate
from backupd.operations.small_files import SmallBatch
from backupd.repository.tree import ChunkRef


@dataclass(slots=True, eq=False)
class StoredFile:
    """A file on its way: its chunks appear as workers finish them."""

    path: bytes = b""
    tag: object = None
    mtime_ns: int = 0
    chunks: list[ChunkRef | None] = field(default_factory=list)
    segments: list[tuple[Segment, int]] = field(default_factory=list)
    waiting: int = 0
    content_hash: bytes = b""
    closed: bool = False

    @property
    def done(self) -> bool:
        """Whether everything of it is stored or on its way to be."""
        return self.closed and not self.waiting

    def refs(self) -> tuple[ChunkRef, ...]:
        """The chunks of a file that is done."""
        return tuple(ref for ref in self.chunks if ref is not None)


@dataclass(slots=True)
class Piece:
    """A chunk in a frame, at `frame[HEADROOM : HEADROOM + size]`, and its place in its file.

    `numbers` is what is known of its elements, `candidate` what it may be a difference from.
    """

    frame: memoryview
    size: int
    file: StoredFile
    number: int
    offset: int
    numbers: Numbers
    candidate: Candidate | None


@dataclass(slots=True)
class SqueezedFiles:
    """Small files, and their turn in the order of entries."""

    files: SmallBatch
    turn: StoredFile
