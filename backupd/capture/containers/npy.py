"""numpy's array files, versions 1 to 3, alone or as members of an npz.

The header is a literal of Python; it is matched by a grammar of its own rather than evaluated,
since `ast.literal_eval` can be made to end the interpreter. Object arrays, which are pickles,
and records are no tensors.
Format: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
"""

from __future__ import annotations

import re

from backupd.capture.containers.bounded import BoundedFile, MalformedError, TruncatedError
from backupd.capture.containers.regions import (
    Layout,
    TensorRegion,
    big_endian,
    make_layout,
    tensor_bytes,
)

MAGIC = b"\x93NUMPY"

_MAX_HEADER_BYTES = 10_000
"""numpy's own bound, `max_header_size`."""

_GUESS_BYTES = 256
"""One read this long holds nearly every header: numpy pads them to a multiple of 64."""

_DTYPES = {
    "f8": "f64",
    "f4": "f32",
    "f2": "f16",
    "c8": "c64",
    "c16": "c128",
    "i8": "i64",
    "i4": "i32",
    "i2": "i16",
    "i1": "i8",
    "u8": "u64",
    "u4": "u32",
    "u2": "u16",
    "u1": "u8",
    "b1": "bool",
    # Types that numpy has no code for are saved as bytes of anything; of two bytes there is
    # bfloat16 alone (ml_dtypes), of one several.
    "V1": "u8",
    "V2": "bf16",
}

# Quantifiers are possessive where two in a row could share the same characters.
_VALUE = r"(?:'[^']*'|\([^()]*\)|\w++)"
_PAIR = rf"'[^']*'\s*+:\s*+{_VALUE}\s*+(?:,\s*+)?+"
_HEADER = re.compile(rf"\{{\s*+(?:{_PAIR})*+\}}\s*+", re.ASCII)
_ITEM = re.compile(rf"'([^']*)'\s*+:\s*+({_VALUE})", re.ASCII)
_DESCRIPTION = re.compile(r"'([<>|=]?)([a-zA-Z]\d{1,2})'", re.ASCII)
_SHAPE = re.compile(r"\(\s*+(?:\d{1,19}L?\s*+(?:,\s*+)?+)*+\)", re.ASCII)
_NUMBER = re.compile(r"\d+", re.ASCII)


def parse_npy(file: BoundedFile, name: str) -> Layout:
    """Return the layout of `file` with one tensor called `name`. Raises MalformedError."""
    tensor = npy_region(file, 0, file.size, name)
    return make_layout("npy", [tensor], file.size)


def npy_region(file: BoundedFile, offset: int, length: int, name: str) -> TensorRegion:
    """Return the array of the npy file that lies in `length` bytes of `file` from `offset`.

    Elements are counted as they lie: an array in Fortran order has its shape reversed. Raises
    MalformedError where the bytes are not such a file or hold no plain numbers, TruncatedError
    where they end early.
    """
    head = file.read(offset, min(length, _GUESS_BYTES))
    if len(head) < 10 or not head.startswith(MAGIC) or not 1 <= head[6] <= 3:
        raise MalformedError("no npy file")
    start = 10 if head[6] == 1 else 12
    header_bytes = int.from_bytes(head[8:start], "little")
    data = start + header_bytes
    if data > length:
        raise TruncatedError("an npy header that ends behind the file")
    if header_bytes > _MAX_HEADER_BYTES:
        raise MalformedError("an npy header longer than is read")
    text = head[start:data] if data <= len(head) else file.read(offset + start, header_bytes)
    try:
        header = text.decode("utf-8" if head[6] == 3 else "latin-1")
    except UnicodeDecodeError as error:
        raise MalformedError("an npy header that is not UTF-8") from error
    dtype, shape, size_bytes = _describe(header)
    if size_bytes > length - data:
        raise TruncatedError("an array that ends behind the file")
    if size_bytes < length - data:
        raise MalformedError("bytes behind the array")
    return TensorRegion(name, dtype, shape, offset + data, size_bytes)


def _describe(header: str) -> tuple[str, tuple[int, ...], int]:
    """Return dtype, shape as it lies, and bytes."""
    items = dict(_ITEM.findall(header)) if _HEADER.fullmatch(header) else {}
    if items.keys() != {"descr", "fortran_order", "shape"}:
        raise MalformedError("an npy header of another kind")
    described = _DESCRIPTION.fullmatch(items["descr"])
    order = items["fortran_order"]
    if described is None or not _SHAPE.fullmatch(items["shape"]) or order not in ("True", "False"):
        raise MalformedError("an npy header of another kind")
    dtype = _DTYPES.get(described[2])
    if dtype is None:
        raise MalformedError("an array of no plain numbers")
    shape = tuple(map(int, _NUMBER.findall(items["shape"])))
    if order == "True":
        shape = shape[::-1]
    if described[1] == ">":
        dtype = big_endian(dtype)
    return dtype, shape, tensor_bytes(dtype, shape)
