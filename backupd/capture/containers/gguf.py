"""GGUF, versions 2 and 3: metadata, the table of tensors, and their data behind it.

Metadata is stepped over but for the alignment. Format: docs/gguf.md of ggml-org/ggml.
"""

from __future__ import annotations

import struct

from backupd.capture.containers.bounded import BoundedFile, Cursor, LimitError, MalformedError
from backupd.capture.containers.regions import (
    DATA_TYPES,
    MAX_NAME_CHARACTERS,
    MAX_TENSORS,
    Layout,
    TensorRegion,
    make_layout,
    tensor_bytes,
)

MAGIC = b"GGUF"

_MAX_METADATA_ENTRIES = 65_536
_MAX_METADATA_BYTES = 64 << 20
_MAX_STRINGS = 4_000_000
"""A tokenizer lists its vocabulary, some 260,000 words, up to three times."""

_MAX_DIMENSIONS = 4
_DEFAULT_ALIGNMENT = 32
_ALIGNMENT_KEY = b"general.alignment"

_HEADER = struct.Struct("<4sLQQ")
_U32 = struct.Struct("<L")
_U64 = struct.Struct("<Q")
_ARRAY = struct.Struct("<LQ")
_PLACE = struct.Struct("<LQ")
_DIMENSIONS = tuple(struct.Struct(f"<{count}Q") for count in range(_MAX_DIMENSIONS + 1))

_VALUE_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_U32_VALUE, _STRING_VALUE, _ARRAY_VALUE = 4, 8, 9

# ggml's type number: name, elements of a block, bytes of a block (ggml_type and type_traits in
# ggml/src/ggml.c; the same as GGML_QUANT_SIZES of gguf-py 0.19).
_TYPES = {
    0: ("f32", 1, 4),
    1: ("f16", 1, 2),
    2: ("q4_0", 32, 18),
    3: ("q4_1", 32, 20),
    6: ("q5_0", 32, 22),
    7: ("q5_1", 32, 24),
    8: ("q8_0", 32, 34),
    9: ("q8_1", 32, 40),
    10: ("q2_k", 256, 84),
    11: ("q3_k", 256, 110),
    12: ("q4_k", 256, 144),
    13: ("q5_k", 256, 176),
    14: ("q6_k", 256, 210),
    15: ("q8_k", 256, 292),
    16: ("iq2_xxs", 256, 66),
    17: ("iq2_xs", 256, 74),
    18: ("iq3_xxs", 256, 98),
    19: ("iq1_s", 256, 50),
    20: ("iq4_nl", 32, 18),
    21: ("iq3_s", 256, 110),
    22: ("iq2_s", 256, 82),
    23: ("iq4_xs", 256, 136),
    24: ("i8", 1, 1),
    25: ("i16", 1, 2),
    26: ("i32", 1, 4),
    27: ("i64", 1, 8),
    28: ("f64", 1, 8),
    29: ("iq1_m", 256, 56),
    30: ("bf16", 1, 2),
    34: ("tq1_0", 256, 54),
    35: ("tq2_0", 256, 66),
    39: ("mxfp4", 32, 17),
    40: ("nvfp4", 64, 36),
    41: ("q1_0", 128, 18),
}


def parse_gguf(file: BoundedFile) -> Layout:
    """Return the layout of `file`. Raises MalformedError, TruncatedError.

    Shapes are turned round, as GGUF counts the innermost dimension first. Big-endian files,
    which only their version's bytes would tell, are malformed here.
    """
    cursor = Cursor(file, 0)
    magic, version, tensor_count, entry_count = _HEADER.unpack(cursor.take(_HEADER.size))
    if magic != MAGIC or version not in (2, 3):
        raise LimitError("a version of GGUF that is not read")
    if tensor_count > MAX_TENSORS or entry_count > _MAX_METADATA_ENTRIES:
        raise LimitError("more entries than are read")
    alignment = _skip_metadata(cursor, entry_count)
    placed = []
    for _ in range(tensor_count):
        name = cursor.take(_length(cursor, MAX_NAME_CHARACTERS))
        (dimensions,) = cursor.unpack(_U32)
        if dimensions > _MAX_DIMENSIONS:
            raise MalformedError("a tensor of more dimensions than ggml has")
        shape = cursor.unpack(_DIMENSIONS[dimensions])[::-1]
        number, offset = cursor.unpack(_PLACE)
        if offset % alignment:
            raise MalformedError("a tensor out of alignment")
        dtype, size_bytes = _size(number, shape)
        placed.append((name.decode("utf-8", "backslashreplace"), dtype, shape, offset, size_bytes))
    data = -(-cursor.position // alignment) * alignment
    return make_layout(
        "gguf",
        (
            TensorRegion(name, dtype, shape, data + offset, size_bytes)
            for name, dtype, shape, offset, size_bytes in placed
        ),
        file.size,
    )


def _size(number: int, shape: tuple[int, ...]) -> tuple[str, int]:
    """Return the dtype of ggml's type `number`, and the bytes of a tensor of `shape`."""
    if number not in _TYPES:
        raise LimitError("a type that ggml does not have")
    dtype, block, block_bytes = _TYPES[number]
    if dtype in DATA_TYPES:
        return dtype, tensor_bytes(dtype, shape)
    elements = tensor_bytes("u8", shape)
    if not shape or shape[-1] % block:
        raise MalformedError("a row that is no whole number of blocks")
    return dtype, elements // block * block_bytes


def _length(cursor: Cursor, at_most: int) -> int:
    (length,) = cursor.unpack(_U64)
    if length > at_most:
        raise LimitError("a string longer than is read")
    return length


def _skip_metadata(cursor: Cursor, entry_count: int) -> int:
    """Step over the metadata. Return the alignment of the tensors' data."""
    alignment = _DEFAULT_ALIGNMENT
    strings = 0
    for _ in range(entry_count):
        key = cursor.take(_length(cursor, 0xFFFF))
        (kind,) = cursor.unpack(_U32)
        count = 1
        if kind == _ARRAY_VALUE:
            kind, count = cursor.unpack(_ARRAY)
        elif key == _ALIGNMENT_KEY and kind == _U32_VALUE:
            (alignment,) = cursor.unpack(_U32)
            if alignment == 0 or alignment & (alignment - 1):
                raise MalformedError("an alignment that is no power of two")
            continue
        if kind == _STRING_VALUE:
            strings += count
            if strings > _MAX_STRINGS:
                raise LimitError("more strings than are read")
            cursor.skip_strings(count)
        elif kind in _VALUE_BYTES:
            cursor.skip(count * _VALUE_BYTES[kind])
        else:
            # Arrays of arrays are allowed by the page and written by nobody.
            raise LimitError("a metadata value of no known type")
        if cursor.position > _MAX_METADATA_BYTES:
            raise LimitError("more metadata than is read")
    return alignment
