"""What a snapshot needs: every blob that a restore of it would read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from backupd.errors import DamagedError
from backupd.repository.reader import BlobReader
from backupd.repository.snapshots import SnapshotRecord
from backupd.repository.tree import ChunkRef, TreeEntry
from backupd.repository.tree_codec import decode_chunk_list, decode_tree


@dataclass(frozen=True, slots=True)
class Needed:
    """A blob that is needed, and by which path; `path` is None for the tree itself.

    With `plain` it is a base: only a copy will do that stands on none itself.
    """

    blob_id: bytes
    path: bytes | None
    plain: bool = False


def chunks_of(reader: BlobReader, entry: TreeEntry) -> Iterator[ChunkRef]:
    """A file's chunks in order. Raises `DamagedError` where their list cannot be read."""
    if entry.chunk_list:
        yield from decode_chunk_list(reader.read(entry.chunk_list))
    else:
        yield from entry.chunks


def placed_chunks(entry: TreeEntry, refs: Iterator[ChunkRef]) -> Iterator[tuple[ChunkRef, int]]:
    """Each chunk with its offset in the file.

    Raises `DamagedError` where they do not fill the file's extents.
    """
    runs = iter(entry.extents or ((0, entry.metadata.size_bytes),))
    offset = end = 0
    for ref in refs:
        while offset == end:
            run = next(runs, None)
            if run is None:
                raise DamagedError("more bytes are stored than the file has")
            offset, end = run[0], run[0] + run[1]
        if offset + ref.size_bytes > end:
            raise DamagedError("more bytes are stored than the file has")
        yield ref, offset
        offset += ref.size_bytes
    if offset != end or any(length for _, length in runs):
        raise DamagedError("fewer bytes are stored than the file has")


def entries_of(reader: BlobReader, record: SnapshotRecord) -> Iterator[TreeEntry]:
    """The entries of a snapshot's model in path order. Raises `DamagedError`."""
    for tree in record.trees:
        yield from decode_tree(reader.read(tree))


def blobs_of(reader: BlobReader, record: SnapshotRecord) -> Iterator[Needed]:
    """Every blob of a snapshot, bases of deltas too, some more than once.

    Raises `DamagedError` where the tree or a chunk list cannot be read.
    """
    for tree in record.all_trees:
        yield Needed(tree, None)
        for entry in decode_tree(reader.read(tree)):
            for blob_id in (entry.chunk_list, entry.layout):
                if blob_id:
                    yield Needed(blob_id, entry.path)
            for ref in chunks_of(reader, entry):
                yield Needed(ref.blob_id, entry.path)
                base_id = base_of(reader, ref.blob_id)
                if base_id:
                    yield Needed(base_id, entry.path, plain=True)


def base_of(reader: BlobReader, blob_id: bytes) -> bytes:
    """The id of the base that a blob stands on, empty where it has none or is missing."""
    try:
        return reader.finder.find(blob_id).record.base_id
    except DamagedError:
        return b""  # the caller finds out by itself that the blob is missing
