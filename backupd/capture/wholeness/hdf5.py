"""HDF5: the superblock's own word on where the file ends, and on whether it is being written.

Format: HDF5 File Format Specification 3.0, section II.A. The library refuses to open a file that
is shorter than its end-of-file address; one that is longer was not closed, since closing cuts it
to that length.
"""

from __future__ import annotations

from backupd.capture.containers.bounded import BoundedFile
from backupd.capture.wholeness.verdict import WHOLE, Judgement, doubtful, torn

MAGIC = b"\x89HDF\r\n\x1a\n"

_OPEN_FOR_WRITING = 0x05
"""Of the consistency flags of a version 3 superblock: bit 0 write access, bit 2 SWMR."""


def judge_hdf5(file: BoundedFile) -> Judgement:
    """What the superblock at the start of `file` says. Raises MalformedError, TruncatedError."""
    version = file.read(8, 1)[0]
    if version in (0, 1):
        width = file.read(13, 1)[0]
        # Base address, free space, end of file: behind the fixed part, which in version 1 has
        # four bytes more.
        first = 24 if version == 0 else 28
        end_place = first + 2 * width
    elif version in (2, 3):
        width = file.read(9, 1)[0]
        if version == 3 and file.read(11, 1)[0] & _OPEN_FOR_WRITING:
            return torn("is marked as open for writing")
        first = 12
        end_place = first + 2 * width
    else:
        return doubtful("has a superblock of an unknown version")
    if width not in (2, 4, 8):
        return doubtful("has addresses of an unknown width")
    base = int.from_bytes(file.read(first, width), "little")
    end = int.from_bytes(file.read(end_place, width), "little")
    if end == (1 << 8 * width) - 1:
        return torn("has no end-of-file address yet")
    if file.size not in (end, base + end):
        return torn(f"has {file.size} bytes, and its superblock says {end}")
    return WHOLE
