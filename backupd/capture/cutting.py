"""Where a container is cut: each tensor on its own, what lies between by content.

Pure: a layout in, segments out. A tensor gives the same chunks wherever it moves to, and the
segment of the same key in an earlier file is what a later one is a difference from.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from blake3 import blake3

from backupd.capture.containers.regions import Layout, TensorRegion
from backupd.codec.blob import Numbers

PIECE_SIZE = 4 << 20
"""Bytes of a tensor's chunk, the last one may be shorter."""

_SMALL_TENSOR = 1 << 20  # neighbours below this share a chunk
_GAP = 512  # bytes between two small tensors that may lie in their chunk: a zip's local header
_KEY_SIZE = 16


@dataclass(frozen=True, slots=True)
class Segment:
    """A run of a file. With a `key` it is cut every `PIECE_SIZE` bytes, else by content.

    `key` is a hash of the names, types, shapes and mutual places of the tensors in it. `numbers`
    is what is known of its elements.
    """

    offset: int
    size_bytes: int
    key: bytes
    numbers: Numbers


OPAQUE = Numbers(0)

# Written anew as a whole with the same tensors at the same places, and no parser says where: a
# file of the same kind and size is taken for the same structure.
_STEADY_KINDS = ("hdf5", "tensorflow")


def segments_of(layout: Layout | None, file_size: int) -> Iterator[Segment]:
    """The segments of a file, from its first byte to its last."""
    end = 0
    if layout is not None and layout.kind in _STEADY_KINDS and not layout.tensors:
        key = blake3(f"{layout.kind} {file_size}".encode()).digest(_KEY_SIZE)
        yield Segment(0, file_size, key, OPAQUE)
        return
    if layout is not None:
        for group in _groups(layout):
            begin = group[0].offset
            if begin > end:
                yield Segment(end, begin - end, b"", OPAQUE)
            end = group[-1].offset + group[-1].size_bytes
            yield Segment(begin, end - begin, _key(group), _numbers(group[0]))
    if end < file_size:
        yield Segment(end, file_size - end, b"", OPAQUE)


def _groups(layout: Layout) -> Iterator[list[TensorRegion]]:
    """Tensors of whose elements something is known, small neighbours of one kind together."""
    group: list[TensorRegion] = []
    for tensor in layout.tensors:
        if group and not _joins(group, tensor):
            yield group
            group = []
        group.append(tensor)
    if group:
        yield group


def _joins(group: list[TensorRegion], tensor: TensorRegion) -> bool:
    first, last = group[0], group[-1]
    gap = tensor.offset - last.offset - last.size_bytes
    # Elements must stand at multiples of their width from the beginning of the chunk.
    aligned = (tensor.offset - first.offset) % max(1, first.width) == 0
    return (
        max(last.size_bytes, tensor.size_bytes) < _SMALL_TENSOR
        and tensor.offset + tensor.size_bytes - first.offset <= PIECE_SIZE
        and gap <= _GAP
        and aligned
        and (first.width, first.floating) == (tensor.width, tensor.floating)
    )


def _numbers(tensor: TensorRegion) -> Numbers:
    return Numbers(tensor.width, tensor.floating)


def _key(group: list[TensorRegion]) -> bytes:
    origin = group[0].offset
    hasher = blake3()
    for tensor in group:
        place = f"{tensor.dtype} {tensor.shape} {tensor.offset - origin} {tensor.size_bytes}\n"
        hasher.update(tensor.name.encode("utf-8", "surrogatepass") + b"\0" + place.encode())
    return hasher.digest(_KEY_SIZE)
