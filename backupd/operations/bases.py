"""Which earlier chunk a tensor's chunk is a difference from.

The base of a piece of a tensor is the same piece of the same tensor (name, type, shape) as it was
captured last: in a file of the same name where there is one, else in any. Where that chunk is a
difference itself, the base it stands on is taken: a base is always stored plain, so a restore
decodes two blobs at most.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

from backupd.capture.cutting import PIECE_SIZE, Segment
from backupd.capture.folders import name_of
from backupd.repository.tree import ChunkRef
from backupd.repository.writer import Writer

_WAIT_SECONDS = 0.5
_MOST_WAITS = 60
_MOST_PLACES = 500_000  # chunks whose place on disk is remembered; the rest is read from a target


@dataclass(frozen=True, slots=True)
class Place:
    """Where a chunk lies in a file of the model's folder, at least when it was read last."""

    path: bytes
    offset: int
    size_bytes: int
    mtime_ns: int


Chunks: TypeAlias = list[ChunkRef | None]
"""A file's chunks, which appear one by one while the file is being stored."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """The chunk that may become a base: the `number`th of a file's, known when it is stored.

    `earlier` says that it is of an earlier snapshot, so that nobody is storing it for the first
    time.
    """

    chunks: Chunks
    number: int
    earlier: bool


@dataclass(frozen=True, slots=True)
class _Known:
    chunks: Chunks
    first: int
    size_bytes: int
    earlier: bool


class BaseTable:
    """What was captured of each tensor last. The reader's thread fills and asks it; `settle`,
    `key_of` and `place_of` are for the workers."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._by_file: dict[tuple[bytes, bytes], _Known] = {}
        self._by_key: dict[bytes, _Known] = {}
        self._places: dict[bytes, Place] = {}
        self._bases: dict[bytes, bytes] = {}
        self._changed = threading.Condition()
        self._closed = False

    def add_file(
        self,
        path: bytes,
        segments: Iterable[tuple[Segment, int]],
        chunks: Chunks,
        *,
        earlier: bool = False,
    ) -> None:
        """Take a file's tensors as the newest: each segment with its first chunk's number.

        `earlier` says that the file is an earlier snapshot's.
        """
        name = name_of(path)
        for segment, first in segments:
            if segment.key:
                known = _Known(chunks, first, segment.size_bytes, earlier)
                self._by_file[segment.key, name] = known
                self._by_key[segment.key] = known

    def candidate(self, path: bytes, segment: Segment, piece: int) -> Candidate | None:
        """What the `piece`th chunk of a segment may be a difference from."""
        known = self._by_file.get((segment.key, name_of(path))) or self._by_key.get(segment.key)
        if known is None or known.size_bytes != segment.size_bytes:
            return None
        return Candidate(known.chunks, known.first + piece, known.earlier)

    def add_place(self, blob_id: bytes, place: Place) -> None:
        """Remember where on disk a chunk was read."""
        if len(self._places) < _MOST_PLACES:
            self._places[blob_id] = place

    def place_of(self, blob_id: bytes) -> Place | None:
        """Where on disk a chunk was, or None."""
        return self._places.get(blob_id)

    def settle(self, blob_id: bytes, base_id: bytes) -> None:
        """A chunk was stored, on that base (empty for none)."""
        with self._changed:
            self._bases[blob_id] = base_id
            self._changed.notify_all()

    def settle_ref(self, chunks: Chunks, number: int, ref: ChunkRef) -> None:
        """A chunk's id is known."""
        with self._changed:
            chunks[number] = ref
            self._changed.notify_all()

    def close(self) -> None:
        """Let nobody wait any longer, as the workers end."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def key_of(self, candidate: Candidate) -> ChunkRef | None:
        """The plain chunk that a candidate is or stands on, with the candidate's size.

        Waits for a candidate that another worker is storing: it was begun earlier, so it ends.
        The wait is bounded all the same, as doing without a base costs only bytes.
        """
        with self._changed:
            for _ in range(_MOST_WAITS):
                if candidate.number >= len(candidate.chunks) or self._closed:
                    return None
                ref = candidate.chunks[candidate.number]
                if ref is not None:
                    if ref.blob_id in self._bases:
                        base_id = self._bases[ref.blob_id] or ref.blob_id
                        return ChunkRef(base_id, ref.size_bytes)
                    location = self._writer.find(ref.blob_id)
                    if location is not None:
                        base_id = location.record.base_id or ref.blob_id
                        return ChunkRef(base_id, ref.size_bytes)
                    # What was lost may be on its way again, by the very caller even: the wait
                    # would be for itself, or two would wait for one another.
                    if candidate.earlier or not self._writer.is_on_its_way(ref.blob_id):
                        return None
                self._changed.wait(timeout=_WAIT_SECONDS)
        return None


def pieces_of(segment: Segment) -> int:
    """How many chunks a segment with a key is cut into."""
    return -(-segment.size_bytes // PIECE_SIZE)
