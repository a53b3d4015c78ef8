"""The payload of a plane-coded chunk: its header and the table of its plane groups.

Only the layout of bytes lives here; what the bytes mean as numbers is in `plane_kernels`.
docs/codec.md specifies every field.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass

from backupd.errors import DamagedError

WIDTHS = (1, 2, 4, 8)
GROUP_WIDTHS = (1, 2, 4)

_HEADER = struct.Struct("<BBBB")  # width, flags, head bytes, number of groups
_GROUP = struct.Struct("<BBBI")  # method, first plane, planes, stored length
_FLAG_ROTATE = 1
_FLAG_DELTA = 2
_FLAG_ORDERED = 4

MAX_HEADER = _HEADER.size + max(WIDTHS) * _GROUP.size


class Method(enum.IntEnum):
    """How the bytes of a group are stored."""

    RAW = 0
    ZSTD = 1
    CONSTANT = 2


@dataclass(frozen=True, slots=True)
class Group:
    """`planes` neighbouring byte planes, kept together as little-endian words of that width.

    `first` is the lowest plane (0 holds the lowest bytes); `stored_bytes` is the length of what
    the payload holds for the group.
    """

    method: Method
    first: int
    planes: int
    stored_bytes: int


@dataclass(frozen=True, slots=True)
class Table:
    """Everything that a reader must know before it reads the body of a payload.

    `head_bytes` precede the first element and are kept as they are, as is the rest that is too
    short for an element. `ordered` says that the zstd planes lie in the order of the base's
    exponents (`plane_order`), which only a delta can have.
    """

    width: int
    rotate: bool
    delta: bool
    ordered: bool
    head_bytes: int
    groups: tuple[Group, ...]

    def pack(self) -> bytes:
        """The bytes of the header and its table."""
        flags = self.rotate * _FLAG_ROTATE | self.delta * _FLAG_DELTA
        flags |= self.ordered * _FLAG_ORDERED
        parts = [_HEADER.pack(self.width, flags, self.head_bytes, len(self.groups))]
        parts += [_GROUP.pack(g.method, g.first, g.planes, g.stored_bytes) for g in self.groups]
        return b"".join(parts)


def table_size(groups: int) -> int:
    """How many bytes a header with so many groups takes."""
    return _HEADER.size + groups * _GROUP.size


def parse_table(payload: memoryview, plain_bytes: int) -> tuple[Table, int]:
    """The table of a payload whose chunk has `plain_bytes`, and where the body begins.

    Everything that the table claims is checked against `plain_bytes` and the payload's own
    length, so that a reader may trust it. Raises `DamagedError`.
    """
    if len(payload) < _HEADER.size:
        raise DamagedError("a plane-coded chunk is shorter than its header")
    width, flags, head_bytes, number = _HEADER.unpack_from(payload)
    if width not in WIDTHS or flags > _FLAG_ROTATE | _FLAG_DELTA | _FLAG_ORDERED:
        raise DamagedError(f"a plane-coded chunk has width {width} and flags {flags:#x}")
    rotate, delta = bool(flags & _FLAG_ROTATE), bool(flags & _FLAG_DELTA)
    ordered = bool(flags & _FLAG_ORDERED)
    if ordered and not delta:
        raise DamagedError("a plane-coded chunk is in the order of a base that it does not have")
    if head_bytes >= width or head_bytes > plain_bytes or not 0 < number <= width:
        raise DamagedError("a plane-coded chunk has a header that contradicts itself")
    begin = table_size(number)
    if len(payload) < begin:
        raise DamagedError("a plane-coded chunk is shorter than its table of planes")
    count, tail_bytes = divmod(plain_bytes - head_bytes, width)
    groups = tuple(
        _parse_group(_GROUP.unpack_from(payload, table_size(i)), width, count)
        for i in range(number)
    )
    planes = sorted(plane for g in groups for plane in range(g.first, g.first + g.planes))
    if planes != list(range(width)):
        raise DamagedError("a plane-coded chunk does not hold each of its planes once")
    if begin + head_bytes + tail_bytes + sum(g.stored_bytes for g in groups) != len(payload):
        raise DamagedError("a plane-coded chunk is not as long as its table says")
    return Table(width, rotate, delta, ordered, head_bytes, groups), begin


def _parse_group(entry: tuple[int, ...], width: int, count: int) -> Group:
    method, first, planes, stored_bytes = entry
    if planes not in GROUP_WIDTHS or first % planes or first + planes > width:
        raise DamagedError("a plane-coded chunk has a group of planes that cannot be")
    expected = {Method.RAW: count * planes, Method.CONSTANT: planes}
    if method not in (Method.RAW, Method.CONSTANT, Method.ZSTD):
        raise DamagedError(f"a plane-coded chunk has a plane of unknown method {method}")
    if method != Method.ZSTD and stored_bytes != expected[Method(method)]:
        raise DamagedError("a plane-coded chunk has a plane of the wrong length")
    return Group(Method(method), first, planes, stored_bytes)
