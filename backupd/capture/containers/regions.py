"""The values that a container parser returns: tensors with a place, and the layout of a file.

`make_layout` is the only way to one, so every layout holds what its docstring promises.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple

from backupd.capture.containers.bounded import LimitError, MalformedError, TruncatedError

MAX_TENSORS = 250_000
"""More in one file makes it opaque. The largest published models have some 100,000 in all of
their files; a table of this size takes about 100 MB of memory."""

MAX_NAME_CHARACTERS = 4096
MAX_DIMENSIONS = 64
"""What torch and numpy allow."""

OPAQUE = "opaque"
"""The dtype of a region with a name and a place, of whose elements nothing is known."""

SMALLEST_OPAQUE_BYTES = 64 << 10
"""A member of which only the place is known is not worth a cut of its own below this."""


class DataType(NamedTuple):
    """Bits of an element, bytes of each of its components (0 unknown), and whether those are
    IEEE-like floats in little-endian order, whose sign can be rotated behind the exponent."""

    bits: int
    width: int
    floating: bool


DATA_TYPES = {
    "f64": DataType(64, 8, True),
    "f32": DataType(32, 4, True),
    "f16": DataType(16, 2, True),
    "bf16": DataType(16, 2, True),
    "f8_e4m3": DataType(8, 1, True),
    "f8_e4m3fnuz": DataType(8, 1, True),
    "f8_e5m2": DataType(8, 1, True),
    "f8_e5m2fnuz": DataType(8, 1, True),
    "f8_e8m0": DataType(8, 1, False),
    "f6_e2m3": DataType(6, 1, False),
    "f6_e3m2": DataType(6, 1, False),
    "f4": DataType(4, 1, False),
    "c32": DataType(32, 2, True),
    "c64": DataType(64, 4, True),
    "c128": DataType(128, 8, True),
    "i64": DataType(64, 8, False),
    "i32": DataType(32, 4, False),
    "i16": DataType(16, 2, False),
    "i8": DataType(8, 1, False),
    "u64": DataType(64, 8, False),
    "u32": DataType(32, 4, False),
    "u16": DataType(16, 2, False),
    "u8": DataType(8, 1, False),
    "bool": DataType(8, 1, False),
    OPAQUE: DataType(8, 0, False),
}
"""By normalised name. Big-endian forms are the same with `_be` behind and not floating."""

DATA_TYPES |= {
    f"{name}_be": DataType(kind.bits, kind.width, False)
    for name, kind in DATA_TYPES.items()
    if kind.width > 1
}

_PACKED = DataType(8, 1, False)


@dataclass(frozen=True, slots=True)
class TensorRegion:
    """A tensor's place in a file.

    `dtype` is a name of `DATA_TYPES`, or a packed type of GGUF such as `q4_0`; `shape` counts
    elements, outermost dimension first; `offset` and `size_bytes` say where its bytes lie.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    size_bytes: int

    @property
    def width(self) -> int:
        """Bytes of one component, by which to split planes: 1 for packed types, 0 where nothing
        is known and a probe must tell."""
        return DATA_TYPES.get(self.dtype, _PACKED).width

    @property
    def floating(self) -> bool:
        """Whether components are little-endian floats with the sign in the highest bit."""
        return DATA_TYPES.get(self.dtype, _PACKED).floating


@dataclass(frozen=True, slots=True)
class Layout:
    """What a file is.

    `kind` is one of safetensors, npy, npz, pytorch, pytorch-distributed, keras, zip, gguf, hdf5
    and tensorflow. `tensors` are sorted by offset, lie within the file, do not overlap, hold at
    least one byte each, and have names that differ. `note` is a sentence for people on what
    stayed opaque and why, or empty.
    """

    kind: str
    tensors: tuple[TensorRegion, ...] = ()
    note: str = ""


def big_endian(dtype: str) -> str:
    """Return the name of `dtype` with its bytes the other way round."""
    return f"{dtype}_be" if f"{dtype}_be" in DATA_TYPES else dtype


def tensor_bytes(dtype: str, shape: Iterable[int]) -> int:
    """Return the bytes that a tensor takes, rounded up. `dtype` is a key of `DATA_TYPES`.

    Raises MalformedError where a dimension is negative or there are too many of them.
    """
    bits = DATA_TYPES[dtype].bits
    for count, dimension in enumerate(shape):
        if dimension < 0 or count >= MAX_DIMENSIONS:
            raise MalformedError("a shape that no tensor has")
        bits *= dimension
        if bits >> 80:
            # Keeps the product small; a later 0 would make it nothing, but nobody saves that.
            raise MalformedError("a tensor larger than any file")
    return (bits + 7) // 8


def make_layout(
    kind: str, tensors: Iterable[TensorRegion], file_size: int, note: str = ""
) -> Layout:
    """Return the layout of a file of `file_size` bytes with `tensors` in any order.

    Tensors without bytes are left out. A name met again gets `#2`, `#3` and so on behind it.
    Raises MalformedError where tensors overlap or are too many, TruncatedError where one ends
    behind the file.
    """
    ordered = sorted(
        (tensor for tensor in tensors if tensor.size_bytes), key=lambda tensor: tensor.offset
    )
    if len(ordered) > MAX_TENSORS:
        raise LimitError(f"more than {MAX_TENSORS} tensors")
    end = 0
    for tensor in ordered:
        if tensor.offset < end or tensor.size_bytes < 0:
            raise MalformedError("tensors overlap")
        end = tensor.offset + tensor.size_bytes
    if end > file_size:
        raise TruncatedError("a tensor ends behind the file")
    return Layout(kind, _with_unique_names(ordered), note)


def _with_unique_names(tensors: list[TensorRegion]) -> tuple[TensorRegion, ...]:
    taken: set[str] = set()
    copies: dict[str, int] = {}
    for place, tensor in enumerate(tensors):
        name = tensor.name
        if name in taken:
            number = copies.get(name, 1)
            while name in taken:
                number += 1
                name = f"{tensor.name}#{number}"
            copies[tensor.name] = number
            tensors[place] = replace(tensor, name=name)
        taken.add(name)
    return tuple(tensors)
