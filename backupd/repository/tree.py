"""One entry of a snapshot's tree: everything that is kept of a file, link or folder.

Values only; how they become bytes is in `tree_codec`. They are tuples, as of each there is one a
file, and a frozen dataclass takes four times as long to make.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple


class FileType(enum.Enum):
    """What an entry is; the value is its letter in the tree (see docs/format.md)."""

    FILE = "f"
    FOLDER = "d"
    SYMLINK = "l"
    HARDLINK = "h"


_NO_XATTRS: Mapping[bytes, bytes] = MappingProxyType({})


class ChunkRef(NamedTuple):
    """A run of a file's stored bytes: the blob's id and the plain length in bytes."""

    blob_id: bytes
    size_bytes: int


class Metadata(NamedTuple):
    """What stat and listxattr tell of one path; times in nanoseconds since the epoch.

    `user` and `group` are names where the captured box knew them, else empty.
    `inode`, `ctime_ns` and `device` serve change detection on the same box only.
    """

    mode: int
    uid: int
    gid: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    device: int
    size_bytes: int
    user: str = ""
    group: str = ""
    xattrs: Mapping[bytes, bytes] = _NO_XATTRS


class TreeEntry(NamedTuple):
    """One path of a snapshot.

    `path` is relative to the model's root, with `/` between names, as the bytes the filesystem
    gave; the root itself is `b""`. `link` is a symlink's target, or for a HARDLINK the path of
    the earlier entry that it shares its inode with. A FILE's content is the concatenation of
    `chunks`, or where `chunks` is empty and `chunk_list` is set, of what that list blob names;
    `extents` (offset, length) say where in the file the stored bytes belong when it has holes,
    and are empty when it has none. `content_hash` is the BLAKE3 of the stored bytes in order.
    `layout` is the blob that says which tensors the file holds, empty where it is no container.
    """

    path: bytes
    type: FileType
    metadata: Metadata
    link: bytes = b""
    chunks: tuple[ChunkRef, ...] = ()
    chunk_list: bytes = b""
    extents: tuple[tuple[int, int], ...] = ()
    content_hash: bytes = b""
    layout: bytes = b""
