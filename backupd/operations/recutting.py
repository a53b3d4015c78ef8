"""A live file cut as a snapshot would cut it: its chunk list and its layout, to be had again.

Whoever asks compares the id of what comes out, so a file that changed gives nothing wrong.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

from backupd.capture.containers import identify, read_at_descriptor
from backupd.capture.containers.stored import encode_layout
from backupd.capture.cutting import PIECE_SIZE, segments_of
from backupd.codec.chunking import Chunker
from backupd.operations.tree_sink import IDENTIFIED_BYTES
from backupd.repository.tree import ChunkRef
from backupd.repository.tree_codec import encode_chunk_list

Extents = tuple[tuple[int, int], ...]


def layout_of(descriptor: int, name: bytes) -> bytes:
    """The file's layout as it is stored, empty where it has none. Raises OSError."""
    size = os.fstat(descriptor).st_size
    layout = identify(read_at_descriptor(descriptor), size, name)
    return encode_layout(layout) if layout is not None else b""


def chunk_list_of(
    descriptor: int,
    name: bytes,
    extents: Extents,
    chunker: Chunker,
    blob_id: Callable[[memoryview], bytes],
) -> bytes:
    """The file's chunk list as it is stored. Reads the file. Raises OSError."""
    refs = []
    for offset, size_bytes in _cuts(descriptor, name, extents, chunker):
        chunk = os.pread(descriptor, size_bytes, offset)
        refs.append(ChunkRef(blob_id(memoryview(chunk)), len(chunk)))
    return encode_chunk_list(refs)


def _cuts(
    descriptor: int, name: bytes, extents: Extents, chunker: Chunker
) -> Iterator[tuple[int, int]]:
    """Offset and length of each chunk (see `FileStore.add`)."""
    size = os.fstat(descriptor).st_size
    layout = None
    if size >= IDENTIFIED_BYTES and not extents:
        layout = identify(read_at_descriptor(descriptor), size, name)
    if layout is None:
        for offset, length in extents or ((0, size),):
            yield from _run(descriptor, offset, length, chunker)
        return
    for segment in segments_of(layout, size):
        if not segment.key:
            yield from _run(descriptor, segment.offset, segment.size_bytes, chunker)
            continue
        for begin in range(0, segment.size_bytes, PIECE_SIZE):
            yield segment.offset + begin, min(PIECE_SIZE, segment.size_bytes - begin)


def _run(descriptor: int, offset: int, length: int, chunker: Chunker) -> Iterator[tuple[int, int]]:
    end = offset + length
    while offset < end:
        wanted = min(chunker.parameters.max_size, end - offset)
        data = os.pread(descriptor, wanted, offset)
        if not data:
            return
        last = len(data) < wanted or offset + len(data) == end
        size = chunker.find_cut(memoryview(data), 0, final=last)
        yield offset, size
        offset += size
