"""The directory of a zip archive: which members are stored as they are, and where they lie.

Nothing is inflated. Format: PKWARE APPNOTE 6.3.10; section numbers below are of that. Where the
central directory and a member's own header disagree, the file is not believed at all.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from backupd.capture.containers.bounded import (
    BoundedFile,
    LimitError,
    MalformedError,
    TruncatedError,
)

MAGIC = b"PK\x03\x04"

MAX_MEMBERS = 100_000
"""Each stored one costs a read of its own: 2 s for as many arrays."""

_MAX_DIRECTORY_BYTES = 24 << 20
_LARGEST_COMMENT_BYTES = 0xFFFF

_END = struct.Struct("<4s4H2LH")  # 4.3.16
_END64_LOCATOR = struct.Struct("<4sLQL")  # 4.3.15
_END64 = struct.Struct("<4sQ2H2L4Q")  # 4.3.14
_ENTRY = struct.Struct("<4s4B4H3L5H2L")  # 4.3.12
_LOCAL = struct.Struct("<4s2B4H3L2H")  # 4.3.7
_EXTRA = struct.Struct("<2H")  # 4.5.1
_ZIP64_EXTRA = 1  # 4.5.3
_STORED = 0
ENCRYPTED = 0x2041  # bits 0, 6 and 13 of 4.4.4
_UTF8 = 0x800


@dataclass(frozen=True, slots=True)
class Member:
    """A member of an archive.

    `data_offset` is where its bytes lie in the file if they lie there as they are, else -1;
    `size_bytes` what it takes in the archive.
    """

    name: str
    data_offset: int
    size_bytes: int

    @property
    def stored(self) -> bool:
        """Whether its bytes are in the file neither compressed nor encrypted."""
        return self.data_offset >= 0


@dataclass(frozen=True, slots=True)
class Archive:
    """An archive that takes the bytes `start` to `end` of the file. `members` are sorted by
    place and do not overlap."""

    start: int
    end: int
    members: tuple[Member, ...]


def read_archive(file: BoundedFile, end: int) -> Archive:
    """Return the archive that ends at byte `end` of `file`; where it starts follows from it.

    Raises MalformedError, TruncatedError, LimitError. Members that are folders are left out.
    """
    directory_end, count, directory_bytes, directory_offset, end_of_archive = _find_end(file, end)
    if count > MAX_MEMBERS or directory_bytes > _MAX_DIRECTORY_BYTES:
        raise LimitError("more members than are read")
    if count * _ENTRY.size > directory_bytes:
        raise MalformedError("more members than its directory can name")
    directory = directory_end - directory_bytes
    start = directory - directory_offset
    if start < 0:
        raise TruncatedError("an archive that starts before the file")
    entries = _directory(file.read(directory, directory_bytes), count)
    entries.sort(key=lambda entry: entry[1])
    members = []
    free = start
    for name, local_offset, size_bytes, stored, flags in entries:
        offset = start + local_offset
        if offset < free:
            raise MalformedError("members overlap")
        data = _data_offset(file, offset, name, flags) if stored else -1
        free = data + size_bytes if stored else offset + _LOCAL.size + size_bytes
        if free > directory:
            raise TruncatedError("a member that ends behind the directory")
        text = name.decode("utf-8" if flags & _UTF8 else "cp437", "backslashreplace")
        if not text.endswith("/"):
            members.append(Member(text, data, size_bytes))
    return Archive(start, end_of_archive, tuple(members))


def _find_end(file: BoundedFile, end: int) -> tuple[int, int, int, int, int]:
    """Return the directory's end, its count, its bytes, its offset, and the archive's end."""
    if end < _END.size:
        raise TruncatedError("an archive without an end")
    # The short look serves archives without a comment, which is nearly all.
    for look in (512, _END.size + _LARGEST_COMMENT_BYTES):
        tail_start = max(0, end - look)
        tail = file.read(tail_start, end - tail_start)
        place = tail.rfind(b"PK\5\6", 0, len(tail) - _END.size + 4)
        if place >= 0:
            break
    else:
        raise TruncatedError("an archive without an end")
    found = _END.unpack_from(tail, place)
    if place + _END.size + found[7] != len(tail):
        raise MalformedError("an archive that goes on behind its end")
    _, disk, directory_disk, here, count, directory_bytes, directory_offset, _ = found
    place += tail_start
    if place >= _END64_LOCATOR.size:
        locator = file.read(place - _END64_LOCATOR.size, _END64_LOCATOR.size)
        if locator.startswith(b"PK\6\7"):
            return (*_read_end64(file, place - _END64_LOCATOR.size), end)
    if disk or directory_disk or here != count:
        raise MalformedError("an archive of several parts")
    return place, count, directory_bytes, directory_offset, end


def _read_end64(file: BoundedFile, locator: int) -> tuple[int, int, int, int]:
    # Its place is not taken from the locator, which counts from the archive's start, not yet
    # known; the extensible data that could lie between is reserved and written by nobody.
    place = locator - _END64.size
    found = _END64.unpack(file.read(place, _END64.size))
    signature, size, _, _, disk, directory_disk, here, count, directory_bytes, offset = found
    if signature != b"PK\6\6" or size != _END64.size - 12:
        raise MalformedError("a zip64 end that is none")
    if disk or directory_disk or here != count:
        raise MalformedError("an archive of several parts")
    return place, count, directory_bytes, offset


def _directory(data: bytes, count: int) -> list[tuple[bytes, int, int, bool, int]]:
    """Return name, local header's offset, bytes, whether stored, and flags of each member."""
    entries = []
    position = 0
    for _ in range(count):
        if position + _ENTRY.size > len(data):
            raise TruncatedError("a directory that ends early")
        fields = _ENTRY.unpack_from(data, position)
        flags, method = fields[5], fields[6]
        packed, plain, name_bytes, extra_bytes, comment_bytes = fields[10:15]
        local_offset = fields[18]
        name_start = position + _ENTRY.size
        extra_start = name_start + name_bytes
        position = extra_start + extra_bytes + comment_bytes
        if fields[0] != b"PK\1\2" or position > len(data):
            raise MalformedError("a directory entry that is none")
        if 0xFFFFFFFF in (packed, plain, local_offset):
            extra = data[extra_start : extra_start + extra_bytes]
            plain, packed, local_offset = _widened(extra, plain, packed, local_offset)
        stored = method == _STORED and packed == plain and not flags & ENCRYPTED
        entries.append((data[name_start:extra_start], local_offset, packed, stored, flags))
    if position != len(data):
        raise MalformedError("a directory longer than its entries")
    return entries


def _widened(extra: bytes, *values: int) -> tuple[int, ...]:
    """Return `values` with those that did not fit 32 bits taken from the zip64 extra field."""
    position = 0
    while position + _EXTRA.size <= len(extra):
        kind, length = _EXTRA.unpack_from(extra, position)
        position += _EXTRA.size
        if kind == _ZIP64_EXTRA:
            field = extra[position : position + length]
            wide = []
            for value in values:
                if value == 0xFFFFFFFF:
                    if len(field) < 8:
                        raise MalformedError("a zip64 field that is too short")
                    value, field = int.from_bytes(field[:8], "little"), field[8:]
                wide.append(value)
            return tuple(wide)
        position += length
    # Without the field the value is meant as it stands (4.4.8): exactly 4 GiB less one.
    return values


def _data_offset(file: BoundedFile, offset: int, name: bytes, flags: int) -> int:
    """Return where the bytes of the stored member with its header at `offset` start."""
    local = file.read(offset, _LOCAL.size + len(name))
    fields = _LOCAL.unpack_from(local)
    if (
        fields[0] != MAGIC
        or local[_LOCAL.size :] != name
        or fields[10] != len(name)
        or fields[4] != _STORED
        or (fields[3] ^ flags) & ENCRYPTED
    ):
        raise MalformedError("a member that contradicts the directory")
    return offset + _LOCAL.size + len(name) + int(fields[11])
