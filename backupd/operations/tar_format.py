"""A snapshot's entries as members of a tar archive: pax headers, with all that is kept of a path.

POSIX.1-2001 pax, with what GNU tar and star add: `SCHILY.xattr.` for extended attributes, GNU's
sparse format 1.0 for files with holes. Values only; nothing is written here.
"""

from __future__ import annotations

import tarfile
from collections.abc import Sequence

from backupd.operations.placement import checked_path
from backupd.repository.tree import FileType, TreeEntry

BLOCK = 512
RECORD = 20 * BLOCK
END = bytes(2 * BLOCK)

_TYPES = {
    FileType.FILE: tarfile.REGTYPE,
    FileType.FOLDER: tarfile.DIRTYPE,
    FileType.SYMLINK: tarfile.SYMTYPE,
    FileType.HARDLINK: tarfile.LNKTYPE,
}
_ERRORS = "surrogateescape"


def member_header(entry: TreeEntry, prefix: str) -> bytes:
    """Everything of a member that stands before its data, padded to whole blocks.

    `prefix` is the folder in the archive that the snapshot's root becomes. Raises
    `UnsafeEntryError` for a path that would lead out of it.
    """
    metadata = entry.metadata
    name = _joined(prefix, checked_path(entry.path) if entry.path else b"")
    info = tarfile.TarInfo(name)
    info.type = _TYPES[entry.type]
    info.mode = metadata.mode & 0o7777
    info.uid, info.gid = metadata.uid, metadata.gid
    info.uname, info.gname = metadata.user, metadata.group
    info.pax_headers = {"mtime": _seconds(metadata.mtime_ns)}
    for key, value in metadata.xattrs.items():
        keyword = key.decode("utf-8", _ERRORS).replace("%", "%25").replace("=", "%3D")
        info.pax_headers[f"SCHILY.xattr.{keyword}"] = value.decode("utf-8", _ERRORS)
    data_map = b""
    if entry.type is FileType.SYMLINK:
        info.linkname = entry.link.decode("utf-8", _ERRORS)
    elif entry.type is FileType.HARDLINK:
        info.linkname = _joined(prefix, checked_path(entry.link))
    elif entry.type is FileType.FILE:
        info.size = metadata.size_bytes
        if entry.extents:
            data_map = _sparse_map(entry.extents, metadata.size_bytes)
            info.size = len(data_map) + sum(length for _, length in entry.extents)
            folder, _, last = name.rpartition("/")
            info.name = f"{folder}/GNUSparseFile.0/{last}" if folder else f"GNUSparseFile.0/{last}"
            info.pax_headers |= {
                "GNU.sparse.major": "1",
                "GNU.sparse.minor": "0",
                "GNU.sparse.name": name,
                "GNU.sparse.realsize": str(metadata.size_bytes),
            }
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", _ERRORS) + data_map


def data_size(entry: TreeEntry) -> int:
    """The bytes of a FILE's data that follow its header and map."""
    if entry.extents:
        return sum(length for _, length in entry.extents)
    return entry.metadata.size_bytes


def padding(size: int) -> bytes:
    """What fills the last block behind data of so many bytes."""
    return bytes(-size % BLOCK)


def _joined(prefix: str, path: bytes) -> str:
    text = path.decode("utf-8", _ERRORS)
    return f"{prefix}/{text}" if prefix and text else prefix or text or "."


def _seconds(nanoseconds: int) -> str:
    """Nanoseconds as decimal seconds, exactly, which a float would not be."""
    whole, rest = divmod(abs(nanoseconds), 1_000_000_000)
    sign = "-" if nanoseconds < 0 else ""
    return f"{sign}{whole}.{rest:09d}".rstrip("0").rstrip(".") if rest else f"{sign}{whole}"


def _sparse_map(extents: Sequence[tuple[int, int]], size: int) -> bytes:
    """GNU's map: the number of runs, then offset and length of each, a line each, padded.

    A run of no length at the end says that a hole ends the file.
    """
    runs = [run for run in extents if run[1]]
    if not runs or sum(runs[-1]) < size:
        runs.append((size, 0))
    numbers = [len(runs), *(number for run in runs for number in run)]
    text = "".join(f"{number}\n" for number in numbers).encode("ascii")
    return text + padding(len(text))
