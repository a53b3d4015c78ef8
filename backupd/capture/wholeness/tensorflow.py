"""TensorFlow's checkpoints and SavedModels: the index says how long each data file is.

The index is an SSTable (tensorflow/core/lib/io/table_format.txt, as LevelDB's), its values are
BundleEntryProto (tensorflow/core/protobuf/tensor_bundle.proto). TensorFlow writes it without
compression; one that is compressed is not looked into.
"""

from __future__ import annotations

from collections.abc import Iterator

from backupd.capture.containers.bounded import BoundedFile, LimitError, MalformedError

_FOOTER_BYTES = 48
_MAGIC = (0xDB4775248B80FB57).to_bytes(8, "little")
_BLOCK_TRAILER = 5  # kind of compression, and a CRC
_MAX_BLOCK_BYTES = 16 << 20
_MAX_ENTRIES = 250_000
"""Tensors and blocks that an index may name: blocks may lie on each other, and be read again."""
_MAX_ENTRY_BYTES = 64 << 10
_MAX_FIELDS = 100_000
"""Of a message's outermost ones; a SavedModel has a few, each of which takes a read."""
_VARINT_BITS = 63
# BundleEntryProto's fields of interest, and the wire types of protobuf's encoding.
_SHARD, _OFFSET, _SIZE = 3, 4, 5
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def data_sizes(file: BoundedFile) -> dict[int, int]:
    """The least bytes of each data file that the index `file` names, by number.

    Raises MalformedError, TruncatedError where it is no whole index, LimitError where it cannot
    be told.
    """
    if file.size < _FOOTER_BYTES:
        raise MalformedError("an index without a footer")
    footer = file.read(file.size - _FOOTER_BYTES, _FOOTER_BYTES)
    if not footer.endswith(_MAGIC):
        raise MalformedError("an index without a footer")
    _, place = _varint(footer, 0)
    _, place = _varint(footer, place)
    offset, place = _varint(footer, place)
    size, _ = _varint(footer, place)
    sizes: dict[int, int] = {}
    count = 0
    for _, handle in _entries(_block(file, offset, size)):
        begin, place = _varint(handle, 0)
        length, _ = _varint(handle, place)
        count += 1
        for key_bytes, value in _entries(_block(file, begin, length)):
            count += 1
            if count > _MAX_ENTRIES:
                raise LimitError("more tensors than are read")
            if not key_bytes:
                continue  # the header, which has the empty key
            shard, end = _place(value)
            sizes[shard] = max(sizes.get(shard, 0), end)
    return sizes


def _place(entry: bytes) -> tuple[int, int]:
    """The data file that a BundleEntryProto's tensor lies in, and where it ends there."""
    if len(entry) > _MAX_ENTRY_BYTES:
        raise LimitError("an entry longer than is read")
    fields = {number: part for number, part in _fields(entry) if isinstance(part, int)}
    return fields.get(_SHARD, 0), fields.get(_OFFSET, 0) + fields.get(_SIZE, 0)


def check_message(file: BoundedFile) -> None:
    """Walk the outermost fields of a protobuf message that fills `file`.

    Raises MalformedError, TruncatedError where they do not end where the file does, LimitError
    where that would take too long to tell.
    """
    position = count = 0
    while position < file.size:
        count += 1
        if count > _MAX_FIELDS:
            raise LimitError("more fields than are read")
        head = file.read(position, min(20, file.size - position))
        tag, after = _varint(head, 0)
        position += after
        match tag & 7:
            case 0:
                _, length = _varint(head, after)
                position += length - after
            case 1:
                position += 8
            case 2:
                length, end = _varint(head, after)
                position += end - after + length
            case 5:
                position += 4
            case _:
                raise MalformedError("a field of no kind that protobuf has")
    if position != file.size:
        raise MalformedError("a field that ends behind the file")


def _block(file: BoundedFile, offset: int, size: int) -> bytes:
    if size > _MAX_BLOCK_BYTES:
        raise LimitError("a block larger than is read")
    data = file.read(offset, size + _BLOCK_TRAILER)
    if data[size]:
        raise LimitError("a compressed index")
    return data[:size]


def _entries(block: bytes) -> Iterator[tuple[int, bytes]]:
    """How long each key of a block is, and its value.

    Keys share the beginning of the one before. They are not put together, as a long one that
    many others share all but the end of would be copied for each.
    """
    if len(block) < 4:
        raise MalformedError("a block without an end")
    restarts = int.from_bytes(block[-4:], "little")
    end = len(block) - 4 * (restarts + 1)
    if end < 0:
        raise MalformedError("a block without an end")
    key_bytes = place = 0
    while place < end:
        shared, place = _varint(block, place)
        fresh, place = _varint(block, place)
        length, place = _varint(block, place)
        if shared > key_bytes or place + fresh + length > end:
            raise MalformedError("an entry that ends behind its block")
        key_bytes = shared + fresh
        place += fresh
        yield key_bytes, block[place : place + length]
        place += length


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    place = 0
    while place < len(message):
        tag, place = _varint(message, place)
        kind = tag & 7
        if kind == _VARINT:
            value, place = _varint(message, place)
            yield tag >> 3, value
            continue
        if kind == _BYTES:
            length, place = _varint(message, place)
        elif kind in (_FIXED32, _FIXED64):
            length = 4 if kind == _FIXED32 else 8
        else:
            raise MalformedError("a field of no kind that protobuf has")
        if place + length > len(message):
            raise MalformedError("a field that ends behind its message")
        yield tag >> 3, message[place : place + length]
        place += length


def _varint(data: bytes, place: int) -> tuple[int, int]:
    """The number at `place` of seven bits a byte, the lowest first, and where it ends."""
    value = shift = 0
    while shift <= _VARINT_BITS and place < len(data):
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
        shift += 7
    raise MalformedError("a number that does not end")
