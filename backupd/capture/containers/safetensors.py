"""safetensors: a length, a JSON header, and the tensors without gaps.

The format is that of https://github.com/huggingface/safetensors (README, "Format"); its reader
is as strict as the original. The header is read entry by entry, since parsing hostile JSON
whole takes 25 times its length in memory.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from json.decoder import JSONDecoder
from typing import Any

from backupd.capture.containers.bounded import (
    BoundedFile,
    LimitError,
    MalformedError,
    TruncatedError,
)
from backupd.capture.containers.regions import (
    DATA_TYPES,
    MAX_NAME_CHARACTERS,
    MAX_TENSORS,
    Layout,
    TensorRegion,
    make_layout,
    tensor_bytes,
)

MAX_HEADER_BYTES = 32 << 20
"""The format allows 100 MB; 250,000 tensors with names of 50 characters stay below this."""

_MAX_ENTRY_CHARACTERS = 4096
_METADATA = "__metadata__"

_DTYPES = {
    "F64": "f64",
    "F32": "f32",
    "F16": "f16",
    "BF16": "bf16",
    "F8_E4M3": "f8_e4m3",
    "F8_E4M3FNUZ": "f8_e4m3fnuz",
    "F8_E5M2": "f8_e5m2",
    "F8_E5M2FNUZ": "f8_e5m2fnuz",
    "F8_E8M0": "f8_e8m0",
    "F6_E2M3": "f6_e2m3",
    "F6_E3M2": "f6_e3m2",
    "F4": "f4",
    "C64": "c64",
    "I64": "i64",
    "I32": "i32",
    "I16": "i16",
    "I8": "i8",
    "U64": "u64",
    "U32": "u32",
    "U16": "u16",
    "U8": "u8",
    "BOOL": "bool",
}

# A pair as the library writes it; any other form takes the slow way through json.
_PAIR = re.compile(
    rf'"([^"\\\x00-\x1f]{{1,{MAX_NAME_CHARACTERS}}}+)":'
    r'\{"dtype":"(\w{1,16}+)","shape":\[((?:[0-9]{1,19},?){0,64}+)\],'
    r'"data_offsets":\[([0-9]{1,19}),([0-9]{1,19})\]\}'
)
_SPACE = re.compile(r"[ \t\r\n]*")
_ENDS = re.compile(r"[ \t\r\n]*\}[ \t\r\n]*")

_scan = JSONDecoder().raw_decode


def looks_like_safetensors(head: bytes, size: int) -> bool:
    """Whether a file of `size` bytes that starts with `head` may be one; cheap, and no proof."""
    length = int.from_bytes(head[:8], "little")
    return head[8:9] == b"{" and 2 <= length <= min(size - 8, MAX_HEADER_BYTES)


def parse_safetensors(file: BoundedFile) -> Layout:
    """Return the layout of `file`. Raises MalformedError, TruncatedError."""
    length = int.from_bytes(file.read(0, 8), "little")
    if length > MAX_HEADER_BYTES:
        raise LimitError("a header longer than is read")
    try:
        header = file.read(8, length).decode()
    except UnicodeDecodeError as error:
        raise MalformedError("a header that is not UTF-8") from error
    data = 8 + length
    tensors = []
    for name, dtype, shape, begin, end in _entries(header):
        if dtype not in DATA_TYPES or begin > end or end - begin != tensor_bytes(dtype, shape):
            raise MalformedError("a tensor whose size is not that of its shape")
        tensors.append(TensorRegion(name, dtype, shape, data + begin, end - begin))
        if len(tensors) > MAX_TENSORS:
            raise LimitError(f"more than {MAX_TENSORS} tensors")
    names = {tensor.name for tensor in tensors}
    if len(names) != len(tensors):
        raise MalformedError("a name twice")
    indexed = sum(tensor.size_bytes for tensor in tensors)
    if indexed > file.size - data:
        raise TruncatedError("tensors end behind the file")
    if indexed < file.size - data:
        raise MalformedError("bytes that belong to no tensor")
    # In range, disjoint and as many bytes as there are: then there is no gap either.
    return make_layout("safetensors", tensors, file.size)


def _entries(header: str) -> Iterator[tuple[str, str, tuple[int, ...], int, int]]:
    """Yield name, dtype, shape and the two offsets of each tensor."""
    if not header.startswith("{"):
        raise MalformedError("a header that is no object")
    position = _skip_space(header, 1)
    if header[position : position + 1] == "}":
        _expect_end(header, position)
        return
    while True:
        pair = _PAIR.match(header, position)
        if pair is not None and pair[1] != _METADATA and pair[3][-1:] != ",":
            position = pair.end()
            shape = tuple(map(int, pair[3].split(","))) if pair[3] else ()
            yield pair[1], _DTYPES.get(pair[2], ""), shape, int(pair[4]), int(pair[5])
        else:
            name, position = _key(header, position)
            if name == _METADATA:
                position = _skip_metadata(header, position)
            else:
                position, entry = _entry(header, position)
                yield name, *entry
        if header.startswith(',"', position):
            position += 1
            continue
        position = _skip_space(header, position)
        if header[position : position + 1] != ",":
            _expect_end(header, position)
            return
        position = _skip_space(header, position + 1)


def _key(header: str, position: int) -> tuple[str, int]:
    """Return the key at `position` and where its value starts."""
    key, position = _string(header, position)
    if len(key) > MAX_NAME_CHARACTERS:
        raise LimitError("a name longer than is kept")
    position = _skip_space(header, position)
    if header[position : position + 1] != ":":
        raise MalformedError("a key without a value")
    return key, _skip_space(header, position + 1)


def _string(header: str, position: int) -> tuple[str, int]:
    if header[position : position + 1] != '"':
        raise MalformedError("something else in place of a string")
    try:
        value, end = _scan(header, position)
        value.encode()  # a lone surrogate is no name
    except ValueError as error:
        raise MalformedError("a broken string") from error
    return value, end


def _skip_metadata(header: str, position: int) -> int:
    """Return where the metadata, an object of strings, ends."""
    if header[position : position + 1] != "{":
        raise MalformedError("metadata that is no object")
    position = _skip_space(header, position + 1)
    if header[position : position + 1] == "}":
        return position + 1
    while True:
        _, position = _key(header, position)
        _, position = _string(header, position)
        position = _skip_space(header, position)
        mark = header[position : position + 1]
        if mark == "}":
            return position + 1
        if mark != ",":
            raise MalformedError("metadata that does not end")
        position = _skip_space(header, position + 1)


def _entry(header: str, position: int) -> tuple[int, tuple[str, tuple[int, ...], int, int]]:
    """Return the end and the values of the entry at `position`, however it is spaced."""
    end = header.find("}", position, position + _MAX_ENTRY_CHARACTERS) + 1
    if not end:
        raise MalformedError("an entry that does not end")
    try:
        entry: Any = json.loads(header[position:end])
        shape, (begin, until) = tuple(entry["shape"]), entry["data_offsets"]
        dtype = _DTYPES.get(entry["dtype"], "")
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise MalformedError("an entry that is none") from error
    if len(entry) != 3 or any(type(number) is not int for number in (*shape, begin, until)):
        raise MalformedError("an entry that is none")
    if begin < 0:
        raise MalformedError("an offset below the start")
    return end, (dtype, shape, begin, until)


def _skip_space(header: str, position: int) -> int:
    found = _SPACE.match(header, position)
    return found.end() if found else position


def _expect_end(header: str, position: int) -> None:
    if not _ENDS.fullmatch(header, position):
        raise MalformedError("a header that does not end")
